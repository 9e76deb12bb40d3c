/* spkv train: makes SP-KV models from random weights or from dense checkpoints. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/training.h"
#include "reports/training_log.h"

/* --- result --------------------------------------------------------------------------------------------------------- */

static void print_json(const struct train_options *o, const struct train_log_row *r, double seconds) {
    json_t *root = json_pack(
        "{s:s, s:i, s:s, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:f}", "schema", "spkv-train-result", "version", 1,
        "output", o->output, "step", (json_int_t)r->step, "n_tok", (json_int_t)r->n_tok, "loss_nat_per_token",
        json_finite(r->loss),
        "long_range_density", json_finite(r->long_range_density), "eval_hard_nat_per_token", json_finite(r->eval_nll_hard),
        "eval_full_nat_per_token", json_finite(r->eval_nll_full), "eval_gate_density", json_finite(r->eval_gate_density),
        "eval_long_range_density", json_finite(r->eval_long_range_density), "seconds", seconds);
    json_dumpf(root, stdout, JSON_INDENT(1));
    putchar('\n');
    json_decref(root);
}

static void print_text(const struct train_options *o, bool fitted, const struct train_log_row *r, double seconds) {
    char duration[32];
    clock_format_duration(seconds, duration);
    printf("%s/checkpoint: %lld steps, %llu tokens in %s\n", o->output, (long long)r->step, (unsigned long long)r->n_tok,
           duration);
    if (fitted)
        printf("  a predictor " PREDICTOR_FITTED ", mean squared error of the log utility %.4f", r->loss);
    else
        printf("  loss %.4f nat/token", r->loss);
    if (!isnan(r->long_range_density))
        printf(", long-range density %.1f %%", 100 * r->long_range_density);
    if (!isnan(r->eval_nll_hard))
        printf("\n  held out: loss %.4f nat/token", r->eval_nll_hard);
    if (!isnan(r->eval_long_range_density))
        printf(" with hard gates at density %.1f %%, %.4f with full attention", 100 * r->eval_long_range_density,
               r->eval_nll_full);
    putchar('\n');
}

/* What the log of a complete run ends with; NaN where it does not say. */
static struct train_log_row last_row(const char *out_dir, int64_t steps) {
    double no = (double)NAN;
    struct train_log_row row = {.step = steps, .loss = no, .long_range_density = no, .eval_nll_hard = no,
                                .eval_nll_full = no, .eval_gate_density = no, .eval_long_range_density = no};
    struct training_log *log;
    struct err ignored = {0};
    if (training_log_read(out_dir, &log, &ignored) != OK)
        return row;
    row.n_tok = (uint64_t)training_log_last(log, TRAINING_TOKENS);
    row.loss = training_log_last(log, TRAINING_LOSS);
    row.long_range_density = training_log_last(log, TRAINING_LONG_DENSITY);
    row.eval_nll_hard = training_log_last(log, TRAINING_EVAL_HARD);
    row.eval_nll_full = training_log_last(log, TRAINING_EVAL_FULL);
    row.eval_long_range_density = training_log_last(log, TRAINING_EVAL_LONG_DENSITY);
    training_log_free(log);
    return row;
}

/* --- the command ---------------------------------------------------------------------------------------------------- */

static int train(const struct train_options *o, const char *command, struct err *err) {
    struct training t = training_none();
    struct train_log_row last;
    double seconds;
    int rc = o->protocol == PROTOCOL_RESUME ? training_again(&t, o->output, o->threads, o->quiet, err)
                                            : training_new(&t, o, command, err);
    if (rc == OK)
        rc = training_run(&t, o->output, o->quiet, &last, &seconds, err);
    bool complete = rc == OK && last.step == 0;
    if (complete)
        cli_note(o->quiet, "%s is complete already", o->output);
    if (complete)
        last = last_row(o->output, t.schedule.steps);
    if (rc == OK && (o->json || !complete)) {
        if (o->json)
            print_json(o, &last, seconds);
        else
            print_text(o, t.schedule.target == TARGET_ORACLE, &last, seconds);
        rc = cli_finish_stdout(err);
    } else if (rc == ERR_INCOMPLETE)
        cli_note(o->quiet, "spkv train resume %s goes on from there", o->output);
    training_close(&t);
    return rc;
}

int cmd_train(int argc, char **argv) {
    struct train_options *o = calloc(1, sizeof *o);
    char *command = cli_command_line(argc, argv);
    struct err err = {0};
    if (!o || !command) {
        err_memory(&err, "options", sizeof *o);
    } else {
        train_options_parse(argc, argv, o);
        train(o, command, &err);
    }
    free(command);
    free(o);
    return cli_report(&err);
}
