// The graph of the whole pipeline, as a function of its size: source -> text -> tokens -> training
// -> evaluation -> report. `tiny.jsonnet` gives it values that two cores finish in minutes,
// `olmo7b.jsonnet` the published ones.
local ref(name) = { type: 'ref', ref: name };
local join(objects) = std.foldl(function(all, each) all + each, objects, {});

// What a step asks of the machine and in which processes it works; neither changes a result.
local on(size, role) = std.get(std.get(size, 'machine', {}), role, {});

// One domain's curation: measure, find duplicates and what is evaluated on, then decide once.
local domain(size, name) =
  local source = size.domains[name];
  {
    [name]: std.get(source, 'machine', {}) + on(size, 'text') + {
      type: 'ingest',
      source: source.source,
      [if std.objectHas(source, 'shard_bytes') then 'shard_bytes']: source.shard_bytes,
    },
    [name + '_quality']: on(size, 'text') + {
      type: 'tag',
      documents: ref(name),
      taggers: source.taggers,
    },
    [name + '_duplicates']: on(size, 'text') + {
      type: 'dedup',
      documents: ref(name),
      by: source.dedup_by,
    },
    [name + '_contamination']: on(size, 'text') + {
      type: 'decontaminate',
      documents: ref(name),
      evaluation: ref('evaluation_text'),
    },
    [name + '_kept']: on(size, 'text') + {
      type: 'filter',
      documents: ref(name),
      attributes: [ref(name + '_quality'), ref(name + '_duplicates'), ref(name + '_contamination')],
      rules: source.rules,
    },
    [name + '_tokens']: on(size, 'text') + {
      type: 'tokenize',
      documents: ref(name + '_kept'),
      tokenizer: ref('tokenizer'),
    },
  };

// Text that is only evaluated on; where a domain has the same name, it is a part of that one.
local heldout(size, name) = {
  [name]: std.get(size.heldout[name], 'machine', {}) + {
    type: 'ingest',
    source: size.heldout[name].source,
  },
  [name + '_heldout']: { type: 'filter', documents: ref(name), rules: size.heldout[name].rules },
};

// Conversations of one kind, parted into what is trained on and what is held out.
local split(size, name) = {
  [name]: { type: 'ingest', source: size[name].source },
  [name + '_contamination']: {
    type: 'decontaminate',
    documents: ref(name),
    evaluation: ref('evaluation_text'),
  },
  [name + '_training']: {
    type: 'filter',
    documents: ref(name),
    attributes: [ref(name + '_contamination')],
    rules: size[name].rules,
  },
  [name + '_heldout']: { type: 'filter', documents: ref(name), rules: size[name].heldout_rules },
};

// Published tasks, and how much of their text stands in the corpus: measured, not removed, so that
// training does not wait for a download.
local benchmarks(size) = {
  benchmarks: { type: 'ingest_tasks', source: size.benchmarks },
  benchmark_text: { type: 'task_documents', questions: ref('benchmarks') },
} + {
  [name + '_benchmark_overlap']: on(size, 'text') + {
    type: 'decontaminate',
    documents: ref(name + '_kept'),
    evaluation: ref('benchmark_text'),
  }
  for name in std.objectFields(size.domains)
};

// Training and its evaluation with one seed, whose number ends the names of its steps unless it is
// the first; all above them is shared.
local branch(size, seed, end) =
  local launch = std.get(size, 'adaptation_launch', size.launch);
  // as in { retention: 3, stop_on: { spike_factor: 3 } }, of every training; it changes no result
  local upkeep = std.get(size, 'upkeep', {});
  local train(values) = values + (if seed == null then {} else { seed: seed });
  local models = { [name]: ref(name + end) for name in ['base', 'sft', 'dpo'] };
  {
    ['base' + end]: on(size, 'training') + upkeep + {
      type: 'pretrain',
      mix: ref('mix'),
      model: size.model,
      train: train(size.pretrain),
      launch: size.launch,
    },
    ['sft' + end]: on(size, 'adaptation') + upkeep + {
      type: 'sft',
      checkpoints: models.base,
      examples: ref('examples'),
      train: train(size.sft),
      launch: launch,
    },
    ['reference' + end]: on(size, 'evaluation') + {
      type: 'reference_logprobs',
      checkpoints: models.sft,
      pairs: ref('pairs'),
    },
    ['dpo' + end]: on(size, 'adaptation') + upkeep + {
      type: 'dpo',
      checkpoints: models.sft,
      pairs: ref('reference' + end),
      train: train(size.dpo),
      beta: 0.1,
      launch: launch,
    },

    ['language_scores' + end]: on(size, 'evaluation') + {
      type: 'perplexity',
      models: { base: models.base },
      tokenizer: ref('tokenizer'),
      documents: { [name]: ref(name + '_heldout') for name in std.objectFields(size.heldout) },
      steps: 'all',
      max_documents: size.num_perplexity_documents,
      group_by: std.get(size, 'group_by'),
    },
    ['answer_scores' + end]: on(size, 'evaluation') + {
      type: 'answer_scores',
      models: models,
      examples: ref('heldout_examples'),
      limit: size.num_answers,
    },
    ['pair_scores' + end]: on(size, 'evaluation') + {
      type: 'pair_scores',
      models: models,
      pairs: ref('heldout_pairs'),
      limit: size.num_answers,
    },
    ['choice_scores' + end]: on(size, 'evaluation') + {
      type: 'rank_eval',
      models: models,
      tokenizer: ref('tokenizer'),
      questions: ref('choices'),
    },
    [if std.objectHas(size, 'benchmarks') then 'benchmark_scores' + end]: on(size, 'evaluation') + {
      type: 'rank_eval',
      models: models,
      tokenizer: ref('tokenizer'),
      questions: ref('benchmarks'),
    },
  };

// What the page calls the scores of a branch.
local scores(size, end) = {
  'held-out text': ref('language_scores' + end),
  'held-out answers': ref('answer_scores' + end),
  'held-out pairs': ref('pair_scores' + end),
  'held-out questions': ref('choice_scores' + end),
  [if std.objectHas(size, 'benchmarks') then 'benchmarks']: ref('benchmark_scores' + end),
};

{
  // Rows of an embedding for so many tokens, as OLMo has them: matrix products are fastest where
  // the vocabulary is a multiple of 128.
  padded(num_tokens):: std.ceil(num_tokens / 128) * 128,

  // With a list of seeds, each has its pretraining, SFT, DPO and scores, and the page says how far
  // they are apart; what is published is the first's. Without, a size says the seed of each training.
  graph(size, seeds=[null])::
    assert seeds != [] && std.length(std.set(seeds)) == std.length(seeds) :
           'seeds is %s; it must be a list of one or more that differ' % [seeds];
    local domains = std.objectFields(size.domains);
    local evaluated = std.objectFields(size.heldout);
    local others = seeds[1:];
    local with_benchmarks = std.objectHas(size, 'benchmarks');
    local group_by = std.get(size, 'group_by');  // what is held out together is not independent
    local max_length = size.model.max_sequence_length;
    join([heldout(size, name) for name in evaluated])
    + join([domain(size, name) for name in domains])
    + split(size, 'instructions')
    + split(size, 'preferences')
    + (if with_benchmarks then benchmarks(size) else {})
    + branch(size, seeds[0], '')
    + join([branch(size, seed, '_seed_%d' % seed) for seed in others])
    + {
      local base = self.base,
      local train = std.get(base, 'train', size.pretrain),

      // what is evaluated on, so that no training input holds it
      choices: {
        type: 'function_questions',
        documents: ref('instructions_heldout'),
        limit: size.num_choices,
        group_by: group_by,
      },
      heldout_items: { type: 'task_documents', questions: ref('choices') },
      evaluation_text: {
        type: 'concat',
        documents: [ref('heldout_items'), ref('instructions_heldout'), ref('preferences_heldout')]
                   + [ref(name + '_heldout') for name in evaluated],
      },

      // text to tokens
      kept: { type: 'concat', documents: [ref(name + '_kept') for name in domains] },
      // `tokenizer_file` freezes the tokenizer: the path of a tokenizer.json that an earlier run has
      // trained, as in `cp workspace/latest/tokenizer/tokenizer.json .` (`latest` itself is the run
      // that begins). It is taken byte for byte, its end and padding tokens are those that our own
      // are trained with, and what was tokenized with it stays as it is. Without it a size says how
      // its tokenizer comes to be.
      tokenizer: if std.objectHas(size, 'tokenizer_file')
      then { type: 'import_tokenizer', path: size.tokenizer_file }
      else size.tokenizer(ref('kept')),
      mix: {
        type: 'mix',
        tokens: { [name]: ref(name + '_tokens') for name in domains },
        sequence_length: max_length,
        // how often each part is read, as in { code: 2, documentation: 1.5 }: upsampling, in place
        // of proportions
        repeats: std.get(size, 'repeats'),
        proportions: std.get(size, 'proportions'),
      },
      // what `base` reads, also where an experiment changes that step; `olmo batch base_seed_7` tells
      // it of another seed
      order: {
        type: 'inspect_order',
        mix: std.get(base, 'mix', ref('mix')),
        batch_size: train.batch_size,
        seed: std.get(train, 'seed', size.pretrain.seed),
        [if std.objectHas(base, 'order') then 'order']: base.order,
        num_steps: 20,
      },
      examples: {
        type: 'prepare_examples',
        documents: ref('instructions_training'),
        tokenizer: ref('tokenizer'),
        max_length: max_length,
      },
      pairs: {
        type: 'prepare_pairs',
        documents: ref('preferences_training'),
        tokenizer: ref('tokenizer'),
        max_length: max_length,
      },

      // evaluation
      heldout_examples: {
        type: 'prepare_examples',
        documents: ref('instructions_heldout'),
        tokenizer: ref('tokenizer'),
        max_length: max_length,
        group_by: group_by,
      },
      heldout_pairs: {
        type: 'prepare_pairs',
        documents: ref('preferences_heldout'),
        tokenizer: ref('tokenizer'),
        max_length: max_length,
        group_by: group_by,
      },
      generations: on(size, 'evaluation') + {
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
                + { [name + ' kept']: ref(name + '_kept') for name in domains }
                + {
                  ['training ' + name]: ref(name + '_training')
                  for name in ['instructions', 'preferences']
                },
        tokens: { [name]: ref(name + '_tokens') for name in domains },
        training: { [name]: ref(name) for name in ['base', 'sft', 'dpo'] },
        scores: scores(size, ''),
        [if others != [] then 'seeds']: {
          [name]: { ['%d' % seed]: scores(size, '_seed_%d' % seed)[name] for seed in others }
          for name in std.objectFields(scores(size, ''))
        },
        overlaps: { [name + ' with held-out text']: ref(name + '_contamination') for name in domains }
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
