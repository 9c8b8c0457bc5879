// The graph of the whole pipeline, as a function of its size: source -> text -> tokens -> training
// -> evaluation -> report. `tiny.jsonnet` gives it values that two cores finish in minutes.
local data = import 'data.libsonnet';
local ref(name) = { type: 'ref', ref: name };

// One domain's curation: measure, find duplicates and contamination, then decide once.
local domain(name, source, rules) = {
  [name]: { type: 'ingest', source: source },
  [name + '_quality']: { type: 'tag', documents: ref(name), taggers: ['gopher', 'c4', 'language'] },
  [name + '_duplicates']: { type: 'dedup', documents: ref(name), by: ['document', 'paragraph'] },
  [name + '_contamination']: {
    type: 'decontaminate',
    documents: ref(name),
    evaluation: ref('heldout_items'),
  },
  [name + '_kept']: {
    type: 'filter',
    documents: ref(name),
    attributes: [ref(name + '_quality'), ref(name + '_duplicates'), ref(name + '_contamination')],
    rules: data.training + rules + data.once + data.clean,
  },
  [name + '_heldout']: { type: 'filter', documents: ref(name), rules: data.heldout },
  [name + '_tokens']: { type: 'tokenize', documents: ref(name + '_kept'), tokenizer: ref('tokenizer') },
};

// Conversations of one kind, split by module; a sample of them is trained on.
local split(name, part) = {
  [name]: { type: 'ingest', source: part.source },
  [name + '_contamination']: {
    type: 'decontaminate',
    documents: ref(name),
    evaluation: ref('heldout_items'),
  },
  [name + '_training']: {
    type: 'filter',
    documents: ref(name),
    attributes: [ref(name + '_contamination')],
    rules: data.training + data.clean + data.sample(part.fraction),
  },
  [name + '_heldout']: { type: 'filter', documents: ref(name), rules: data.heldout },
};

// Published tasks, and how much of their text stands in the corpus: measured, not removed, so that
// training does not wait for a download.
local benchmarks(domains, models, source) = {
  benchmarks: { type: 'ingest_tasks', source: source },
  benchmark_text: { type: 'task_documents', questions: ref('benchmarks') },
  benchmark_scores: {
    type: 'rank_eval',
    models: models,
    tokenizer: ref('tokenizer'),
    questions: ref('benchmarks'),
  },
} + {
  [name + '_benchmark_overlap']: {
    type: 'decontaminate',
    documents: ref(name + '_kept'),
    evaluation: ref('benchmark_text'),
  }
  for name in domains
};

{
  ref:: ref,

  graph(size)::
    local domains = std.objectFields(size.domains);
    local models = { base: ref('base'), sft: ref('sft'), dpo: ref('dpo') };
    local with_benchmarks = std.objectHas(size, 'benchmarks');
    local join(objects) = std.foldl(function(all, each) all + each, objects, {});
    join([domain(name, size.domains[name].source, size.domains[name].rules) for name in domains])
    + split('functions', size.functions)
    + split('preferences', size.preferences)
    + (if with_benchmarks then benchmarks(domains, models, size.benchmarks) else {})
    + {
      // evaluation items made from held-out functions, and their text
      choices: { type: 'function_questions', documents: ref('functions_heldout'), limit: size.num_choices },
      heldout_items: { type: 'task_documents', questions: ref('choices') },

      // text to tokens
      kept: { type: 'concat', documents: [ref(name + '_kept') for name in domains] },
      tokenizer: {
        type: 'train_tokenizer',
        documents: ref('kept'),
        vocab_size: size.vocab_size,
        sample_fraction: size.tokenizer_sample,
      },
      mix: {
        type: 'mix',
        tokens: { [name]: ref(name + '_tokens') for name in domains },
        sequence_length: size.model.max_sequence_length,
      },
      order: {
        type: 'inspect_order',
        mix: ref('mix'),
        batch_size: size.pretrain.batch_size,
        seed: size.pretrain.seed,
        num_steps: 20,
      },

      // training
      base: {
        type: 'pretrain',
        mix: ref('mix'),
        model: size.model,
        train: size.pretrain,
        launch: size.launch,
      },
      examples: {
        type: 'prepare_examples',
        documents: ref('functions_training'),
        tokenizer: ref('tokenizer'),
        max_length: size.model.max_sequence_length,
      },
      sft: {
        type: 'sft',
        checkpoints: ref('base'),
        examples: ref('examples'),
        train: size.sft,
        launch: size.launch,
      },
      pairs: {
        type: 'prepare_pairs',
        documents: ref('preferences_training'),
        tokenizer: ref('tokenizer'),
        max_length: size.model.max_sequence_length,
      },
      reference: { type: 'reference_logprobs', checkpoints: ref('sft'), pairs: ref('pairs') },
      dpo: {
        type: 'dpo',
        checkpoints: ref('sft'),
        pairs: ref('reference'),
        train: size.dpo,
        beta: 0.1,
        launch: size.launch,
      },

      // evaluation
      language_scores: {
        type: 'perplexity',
        models: { base: ref('base') },
        tokenizer: ref('tokenizer'),
        documents: { [name]: ref(name + '_heldout') for name in domains },
        steps: 'all',
        max_documents: size.num_perplexity_documents,
      },
      heldout_examples: {
        type: 'prepare_examples',
        documents: ref('functions_heldout'),
        tokenizer: ref('tokenizer'),
        max_length: size.model.max_sequence_length,
      },
      answer_scores: {
        type: 'answer_scores',
        models: models,
        examples: ref('heldout_examples'),
        limit: size.num_answers,
      },
      heldout_pairs: {
        type: 'prepare_pairs',
        documents: ref('preferences_heldout'),
        tokenizer: ref('tokenizer'),
        max_length: size.model.max_sequence_length,
      },
      pair_scores: {
        type: 'pair_scores',
        models: models,
        pairs: ref('heldout_pairs'),
        limit: size.num_answers,
      },
      choice_scores: {
        type: 'rank_eval',
        models: models,
        tokenizer: ref('tokenizer'),
        questions: ref('choices'),
      },
      generations: {
        type: 'generate',
        checkpoints: ref('dpo'),
        tokenizer: ref('tokenizer'),
        prompts: size.prompts,
      },

      // publication
      model: { type: 'export_hf', checkpoints: ref('dpo'), tokenizer: ref('tokenizer') },
      report: {
        type: 'report',
        title: size.title,
        corpus: { [name]: ref(name) for name in domains }
                + { [name + ' kept']: ref(name + '_kept') for name in domains },
        tokens: { [name]: ref(name + '_tokens') for name in domains },
        training: models,
        scores: {
          'held-out text': ref('language_scores'),
          'held-out answers': ref('answer_scores'),
          'held-out pairs': ref('pair_scores'),
          'held-out functions': ref('choice_scores'),
        } + (if with_benchmarks then { benchmarks: ref('benchmark_scores') } else {}),
        overlaps: { [name + ' with held-out items']: ref(name + '_contamination') for name in domains }
                  + (
                    if with_benchmarks
                    then {
                      [name + ' kept with benchmarks']: ref(name + '_benchmark_overlap')
                      for name in domains
                    }
                    else {}
                  ),
        generations: ref('generations'),
      },
    },
}
