#include "cli/tasks_ruler.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/cli.h"
#include "engine/chat.h"
#include "engine/config.h"

enum { KEY_TASK = 0x300, KEY_LENGTH, KEY_MODEL, KEY_TOKENIZER, KEY_HAYSTACK, KEY_SQUAD, KEY_HOTPOT, KEY_CHAT };

static const struct argp_option argp_options[] = {
    {NULL, 0, NULL, 0, "recall, ruler", 3},
    {"length", KEY_LENGTH, "N", 0, "as much filler as fits into N tokens, the answer included", 3},
    {"model", KEY_MODEL, "DIR", 0, "count tokens as this model does, and keep to its limit", 3},
    {"tokenizer", KEY_TOKENIZER, "FILE", 0, "a tokenizer.json alone, in place of --model", 3},
    {NULL, 0, NULL, 0, "ruler", 4},
    {"task", KEY_TASK, "NAME[,NAME...]", 0, "which of the 13 (all; qa_1 and qa_2 where their file is given)", 4},
    {"chat", KEY_CHAT, "auto|off|FILE", 0, "leave room for this chat template, as spkv eval puts it around (auto)", 4},
    {"haystack", KEY_HAYSTACK, "CORPUS", 0, "hide needles in this text; several times for more (generated prose)", 4},
    {"squad", KEY_SQUAD, "FILE", 0, "dev-v2.0.json of SQuAD, for qa_1", 4},
    {"hotpot", KEY_HOTPOT, "FILE", 0, "hotpot_dev_distractor_v1.json, for qa_2", 4},
    {0},
};

static void choose_tasks(struct tasks_ruler *o, const struct argp_state *state, const char *arg) {
    for (const char *name = arg; name;) {
        size_t n = strcspn(name, ",");
        const struct ruler_task *task = ruler_task_find(name, n);
        for (size_t i = 0; i < RULER_N_TASKS; i++)
            o->chosen[i] |= task == ruler_task(i);
        if (!task)
            argp_error(state, "--task: \"%.*s\" is not a task of RULER (niah_single_1 to 3, niah_multikey_1 to 3, "
                       "niah_multivalue, niah_multiquery, vt, cwe, fwe, qa_1, qa_2)", (int)n, name);
        name = name[n] ? name + n + 1 : NULL;
    }
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    struct tasks_ruler *o = state->input;
    switch (key) {
    case KEY_TASK:
        choose_tasks(o, state, arg);
        o->given = "task";
        break;
    case KEY_LENGTH: o->length = (int)cli_parse_int(state, "length", arg, 1, 1 << 24); break;
    case KEY_MODEL: o->model = arg; break;
    case KEY_TOKENIZER: o->tokenizer = arg; break;
    case KEY_HAYSTACK:
        if (o->n_haystacks == TASKS_RULER_MAX_HAYSTACKS)
            argp_error(state, "--haystack: at most %d (give a directory)", TASKS_RULER_MAX_HAYSTACKS);
        o->haystack[o->n_haystacks++] = arg;
        o->given = "haystack";
        break;
    case KEY_CHAT: o->chat = arg, o->given = "chat"; break;
    case KEY_SQUAD: o->squad = arg, o->given = "squad"; break;
    case KEY_HOTPOT: o->hotpot = arg, o->given = "hotpot"; break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

const struct argp tasks_ruler_argp = {argp_options, parse, NULL, NULL, NULL, NULL, NULL};

/* What rows are made from, opened. */
struct opened {
    struct tokenizer *tokenizer;
    struct haystack *haystack;
    struct documents *squad, *hotpot;
    struct chat chat;
};

static void opened_close(struct opened *opened) {
    tokenizer_free(opened->tokenizer);
    haystack_free(opened->haystack);
    documents_free(opened->squad);
    documents_free(opened->hotpot);
    chat_free(&opened->chat);
}

static int check_limit(const struct tasks_ruler *o, struct err *err) {
    struct model_config config;
    int rc = model_config_read(o->model, &config, err);
    if (rc != OK)
        return rc;
    if (o->length > config.max_positions)
        rc = err_set(err, ERR_USAGE, "--length", "%d tokens exceed the limit of %s, which is %d (max_position_embeddings)",
                     o->length, o->model, config.max_positions);
    model_config_free(&config);
    return rc;
}

int tasks_open_tokenizer(const struct tasks_ruler *o, struct tokenizer **out, struct err *err) {
    if (!o->model == !o->tokenizer)
        return err_set(err, ERR_USAGE, "", "whose tokens does --length count? Give --model DIR or --tokenizer FILE");
    if (o->tokenizer)
        return tokenizer_open(o->tokenizer, out, err);
    int rc = check_limit(o, err);
    char *path = rc == OK ? file_join(o->model, "tokenizer.json", err) : NULL;
    if (rc == OK)
        rc = path ? tokenizer_open(path, out, err) : ERR_MEMORY;
    free(path);
    return rc;
}

static int open_all(const struct tasks_ruler *o, struct opened *out, struct err *err) {
    *out = (struct opened){0};
    int rc = o->length ? tasks_open_tokenizer(o, &out->tokenizer, err)
                       : err_set(err, ERR_USAGE, "", "how long is a row? Give --length N");
    if (rc == OK && !o->model && o->chat && strcmp(o->chat, "auto") == 0)
        rc = err_set(err, ERR_USAGE, "--chat", "auto is the template of a --model");
    if (rc == OK)
        rc = chat_open(o->model, o->chat ? o->chat : o->model ? "auto" : "off", &out->chat, err);
    if (rc == OK && o->n_haystacks)
        rc = haystack_open(o->haystack, o->n_haystacks, &out->haystack, err);
    if (rc == OK && o->squad)
        rc = documents_open_squad(o->squad, &out->squad, err);
    if (rc == OK && o->hotpot)
        rc = documents_open_hotpot(o->hotpot, &out->hotpot, err);
    return rc;
}

int tasks_ruler_write(FILE *stream, const struct tasks_ruler *o, uint64_t n_rows, uint64_t seed, struct err *err) {
    struct opened opened;
    bool any = false;
    int rc = open_all(o, &opened, err);
    struct ruler_options options = {.n_rows = n_rows,
                                    .seed = seed,
                                    .length = o->length,
                                    .tokenizer = opened.tokenizer,
                                    .before = opened.chat.before,
                                    .after = opened.chat.after,
                                    .haystack = opened.haystack,
                                    .squad = opened.squad,
                                    .hotpot = opened.hotpot};
    for (size_t i = 0; i < RULER_N_TASKS; i++)
        any |= o->chosen[i];
    for (size_t i = 0; rc == OK && i < RULER_N_TASKS; i++) {
        const struct ruler_task *task = ruler_task(i);
        if (!any && !ruler_task_has_data(task, &options))
            cli_note(false, "%s is left out: its questions are not given (--squad, --hotpot)", ruler_task_name(task));
        else if (!any || o->chosen[i])
            rc = ruler_write(stream, task, &options, err);
    }
    opened_close(&opened);
    return rc;
}
