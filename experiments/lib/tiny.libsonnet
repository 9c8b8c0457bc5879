// The values of the tiny run: what two cores train in two minutes and still learn something.
local data = import 'data.libsonnet';
local python(part) = { type: 'python_install', part: part, source: 'python-' + part };
local domain(part, rules) = {
  source: python(part),
  taggers: ['gopher', 'c4', 'language'],
  dedup_by: ['document', 'paragraph'],
  rules: data.training + rules + data.once + data.clean,
};
local conversations(part, fraction) = {
  source: python(part),
  rules: data.training + data.clean + data.sample(fraction),
  heldout_rules: data.heldout,
};

{
  title: 'olmo-tango: the tiny run',
  domains: {
    documentation: domain('documentation', data.documentation_rules),
    code: domain('code', data.code_rules),
  },
  heldout: {
    documentation: { source: python('documentation'), rules: data.heldout },
    code: { source: python('code'), rules: data.heldout },
  },
  group_by: 'metadata.module',
  instructions: conversations('functions', 0.5),
  preferences: conversations('preferences', 0.1),
  tokenizer(kept):: {
    type: 'train_tokenizer',
    documents: kept,
    vocab_size: 2048,
    sample_fraction: 0.25,
  },
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
