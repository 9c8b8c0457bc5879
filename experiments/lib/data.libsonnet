// Rule sets: values with their source. A rule keeps what is within its bounds.
local bound(attribute, low, high) =
  { attribute: attribute }
  + (if low != null then { at_least: low } else {})
  + (if high != null then { at_most: high } else {});

{
  bound:: bound,

  // Dolma v1.5, Common Crawl: the thresholds of its published mixer configuration, all of them, as
  // the paper says them (Soldaini et al. 2024, appendix); where the tool's rules never fire, these do.
  gopher_rules: [
    bound('gopher.word_count', 50, 100000),
    bound('gopher.median_word_length', 3, 10),
    bound('gopher.symbol_to_word_ratio', null, 0.1),
    bound('gopher.fraction_of_words_with_alpha_character', 0.8, null),
    bound('gopher.required_word_count', 2, null),
    bound('gopher.fraction_of_lines_starting_with_bullet_point', null, 0.9),
    bound('gopher.fraction_of_lines_ending_with_ellipsis', null, 0.3),
    bound('gopher.fraction_of_duplicate_lines', null, 0.3),
    bound('gopher.fraction_of_characters_in_duplicate_lines', null, 0.3),
  ],

  // Reference documentation and source code are no web pages: short lines, many symbols and repeated
  // phrases are what they are made of, so only the ends of the scale are cut.
  documentation_rules: [
    bound('gopher.word_count', 10, 100000),
    bound('gopher.fraction_of_words_with_alpha_character', 0.4, null),
  ],
  code_rules: [
    bound('gopher.word_count', 20, 100000),
    bound('gopher.fraction_of_words_with_alpha_character', 0.3, null),
  ],

  // A share of the documents, the same ones whatever else is in the corpus.
  sample(fraction):: [{ sample_by: 'id', from_fraction: 0.0, to_fraction: fraction, seed: 'sample' }],

  once: [bound('dedup.duplicate_document', null, 0)],
  clean: [bound('decontamination.num_overlaps', null, 0)],

  // One module in ten is held out, by a hash of its name, of every input of every training step.
  training: [{ sample_by: 'metadata.module', from_fraction: 0.0, to_fraction: 0.9, seed: 'heldout' }],
  heldout: [{ sample_by: 'metadata.module', from_fraction: 0.9, to_fraction: 1.0, seed: 'heldout' }],
}
