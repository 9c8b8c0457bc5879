// The values of the tiny run: what two cores train in two minutes and still learn something.
local data = import 'data.libsonnet';
local python(part) = { type: 'python_install', part: part, source: 'python-' + part };

{
  title: 'olmo-tango: the tiny run',
  domains: {
    documentation: { source: python('documentation'), rules: data.documentation_rules },
    code: { source: python('code'), rules: data.code_rules },
  },
  functions: { source: python('functions'), fraction: 0.5 },
  preferences: { source: python('preferences'), fraction: 0.1 },
  vocab_size: 2048,
  tokenizer_sample: 0.25,
  model: {
    d_model: 128,
    n_layers: 4,
    n_heads: 4,
    mlp_hidden_size: 1024,
    vocab_size: 2048,
    max_sequence_length: 256,
  },
  launch: { threads: 2 },
  pretrain: {
    batch_size: 16,
    schedule: { type: 'cosine', peak_lr: 4e-3, warmup_steps: 40, total_steps: 300 },
    save_steps: 100,
    seed: 6198,
    precision: 'fp32',
  },
  sft: {
    batch_size: 16,
    schedule: { type: 'linear', peak_lr: 1e-3, warmup_steps: 10, total_steps: 100, final_fraction: 0 },
    optimizer: { weight_decay: 0 },
    save_steps: 100,
    seed: 1,
    precision: 'fp32',
  },
  dpo: {
    batch_size: 8,
    schedule: { type: 'linear', peak_lr: 3e-4, warmup_steps: 10, total_steps: 60, final_fraction: 0 },
    optimizer: { weight_decay: 0 },
    save_steps: 60,
    seed: 1,
    precision: 'fp32',
  },
  num_choices: 200,
  num_answers: 400,
  num_perplexity_documents: 16,
  prompts: [
    '<|user|>\nWhat does this do?\n\ndef add(a, b):\n    return a + b\n<|assistant|>\n',
    '<|user|>\nWhat does this do?\n\ndef close(self):\n    self.file.close()\n<|assistant|>\n',
  ],
}
