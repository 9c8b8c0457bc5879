// Rule sets: values with their source. A rule keeps what is within its bounds.
local bound(attribute, low, high) =
  { attribute: attribute }
  + (if low != null then { at_least: low } else {})
  + (if high != null then { at_most: high } else {});
local jigsaw(name, file, label) = {
  type: 'fasttext',
  name: name,
  model: {
    path: 'https://dolma-artifacts.org/fasttext_models/jigsaw_fasttext_bigrams_20230515/'
          + 'jigsaw_fasttext_bigrams_%s_final.bin' % file,
    revision: '20230515',
  },
  labels: [label],
  by: 'sentence',
};
local grams(kind, n) = 'gopher.fraction_of_characters_in_%s_%dgrams' % [kind, n];
local part(by, from, to, seed='sample') = [
  { sample_by: by, from_fraction: from, to_fraction: to, seed: seed },
];

{
  bound:: bound,

  // Documents for which a hash of a field falls in [from, to).
  part:: part,

  // A share of the documents, the same ones whatever else is in the corpus.
  sample(fraction):: part('id', 0.0, fraction),

  // Dolma v1.5, Common Crawl: the thresholds of its published mixer configuration, all of them, as
  // the paper says them (Soldaini et al. 2024, appendix). Three of them never fire in the tool, whose
  // configuration misspells the attributes of the most common n-grams; these do.
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
    bound(grams('most_common', 2), null, 0.20),
    bound(grams('most_common', 3), null, 0.18),
    bound(grams('most_common', 4), null, 0.16),
    bound(grams('duplicate', 5), null, 0.15),
    bound(grams('duplicate', 6), null, 0.14),
    bound(grams('duplicate', 7), null, 0.13),
    bound(grams('duplicate', 8), null, 0.12),
    bound(grams('duplicate', 9), null, 0.11),
    bound(grams('duplicate', 10), null, 0.10),
  ],
  common_crawl: self.gopher_rules + [bound('pii.doc_count', null, 5)],

  // Dolma v1.5: paragraphs that stand earlier in the corpus are cut out, and what may identify a
  // person is replaced.
  without_repeats: [{ spans: 'dedup.duplicate_paragraphs', replace_with: '' }],
  cleaned: self.without_repeats + self.without_addresses,
  without_addresses: [
    { spans: 'pii.email_address', replace_with: ' |||EMAIL_ADDRESS||| ' },
    { spans: 'pii.phone_number', replace_with: ' |||PHONE_NUMBER||| ' },
    { spans: 'pii.ip_address', replace_with: ' |||IP_ADDRESS||| ' },
  ],

  // Dolma v1.5, Common Crawl: sentences that are probably toxic or not safe for work are cut out.
  // Its models see pairs of words; they are read from where Dolma has them, once the lock beside the
  // experiment has their digests.
  toxicity_taggers: [jigsaw('toxicity', 'hatespeech', 'toxic'), jigsaw('nsfw', 'nsfw', 'nsfw')],
  without_toxic_sentences: [
    { spans: 'toxicity.toxic_sentences', min_score: 0.4, replace_with: '' },
    { spans: 'nsfw.nsfw_sentences', min_score: 0.4, replace_with: '' },
  ],

  // Dolma v1.5, books and wiki: 25 words (by Unicode's rules) and probably English (by paragraphs).
  long_enough: [bound('unicode_words.num_words', 25, null)],
  english: self.long_enough + [bound('language_paragraphs.doc_en', 0.5, null)],
  english_taggers: ['unicode_words', 'language_paragraphs'],

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

  // What the tool (dolma 1.2.1) did with the published configurations of v1.5, stream by stream: rules
  // that it never fires are left out, what starts inside another span is skipped whole, and
  // documents without text stay. docs/dolma.md has each difference and its count.
  local sets = self,
  dolma_as_run: {
    local replaced(rules) = [each { merge: false, keep_empty: true } for each in rules],
    local misspelled = [grams('most_common', n) for n in [2, 3, 4]],
    local fires(rule) = !std.member(misspelled, rule.attribute),
    common_crawl: [each for each in sets.common_crawl if fires(each)]
                  + replaced(sets.without_repeats + sets.without_toxic_sentences + sets.without_addresses),
    c4: replaced(sets.without_repeats),
    code: [],
    reddit: [],
    papers: [],
    books: sets.english,
    encyclopedia: sets.long_enough,
  },

  once: [bound('dedup.duplicate_document', null, 0)],
  nearly_once: [bound('near_duplicates.duplicate_near', null, 0)],

  // No run of 13 words of what is evaluated on, and no line that is a shorter answer there; and
  // Paloma's rule, no line of 13 words of it.
  clean: [bound('decontamination.num_overlaps', null, 0), bound('decontamination.num_answers', null, 0)],
  uncontaminated: [bound('decontamination.num_paragraphs', null, 0)],

  // One module in ten is held out, by a hash of its name, of every input of every training step.
  training: part('metadata.module', 0.0, 0.9, 'heldout'),
  heldout: part('metadata.module', 0.9, 1.0, 'heldout'),
}
