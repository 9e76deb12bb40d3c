/* What the words of a report mean, for somebody who has not seen the command that made it. The texts are HTML. */
#include "reports/page_assets.h"

const char page_glossary_lead[] =
    "A language model keeps a key and a value of every token it has read, per layer and KV head: the KV cache. Self-pruned "
    "key-value attention (SP-KV, arXiv 2605.14037) keeps only a part of them: everything within a local window, and of what "
    "leaves the window only the pairs that a small predictor scored as useful.";

const char page_glossary_end[] =
    "All ratios are ratios of sums over sequences, never means of ratios. A ratio of nothing to nothing is missing: an en "
    "dash here, an empty field in the CSV files.";

const struct page_word page_words[] = {
    {"pair", "The key and the value of one token in one layer and KV head."},
    {"KV head",
     "One set of keys and values of a layer. With grouped-query attention several query heads share it, and so its gate."},
    {"window",
     "The last tokens, the current one included, that a head always sees. A pair <em>leaves the window</em> when that many "
     "newer tokens have come."},
    {"sinks", "The first tokens of a sequence, which some policies keep visible for ever."},
    {"utility, gate, threshold",
     "The score that the predictor gives a pair when its token is read. The gate is open when the score reaches the "
     "threshold."},
    {"policy",
     "The rule that decides what stays: <code>spkv</code> by utility, <code>full</code> everything, <code>window</code> the "
     "window and the sinks only, <code>random</code> by chance, <code>layout</code> whole heads."},
    {"long-range density",
     "Pairs still in the cache at the end, divided by all pairs that had left the window (sinks not counted). The density of "
     "the paper: 0 for a head that lives from its window, 1 for one that keeps everything."},
    {"gate density", "Pairs with an open gate, divided by all scored pairs, those inside the window too."},
    {"KV fraction",
     "Pairs in the cache after the last token (window, sinks and kept ones), divided by all tokens: the memory that is "
     "left."},
    {"read fraction",
     "Query-key pairs that attention read over the whole run, divided by those that full causal attention reads: the "
     "reading that is left. Methods are compared at equal read fraction."},
    {"far attention",
     "Share of a head's attention on keys outside the window and the sinks, mean over queries, measured under full "
     "attention. It says which heads look far in a model that was not trained for pruning."},
    {"sliding layer",
     "A layer whose own design is a window (as in Gemma). Nothing is pruned there: it has no densities and is hatched."},
    {"loss (nat per token)",
     "Mean negative log-likelihood of the next token, natural logarithm. Lower is better; its exponential is the "
     "perplexity."},
    {"cache bytes: used, allocated, full",
     "After the last token of a sequence: what the pairs in the cache occupy; what their pages occupy, unused places "
     "included; what the model would hold without pruning."},
    {0},
};
