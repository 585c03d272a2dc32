/* A careless host in C11: what the header promises, seen from the other side of the border.
 *
 *   host PLUGIN FILE         load the plugin like any stranger and do to it what one must not; FILE is something that does not exist
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "translora.h"

static int failures = 0;
#define CHECK(what) do { if (!(what)) { printf("FAILED line %d: %s\n", __LINE__, #what); failures++; } } while (0)

static const translora_entry *entry;

static translora_text text(const char *s) { translora_text t = {s, strlen(s)}; return t; }
static int same(translora_text t, const char *s) { return t.length == strlen(s) && memcmp(t.data, s, strlen(s)) == 0; }

static translora_status said(translora_status status, translora_error **error) {
    CHECK((status == TRANSLORA_OK) == (*error == NULL));
    if (*error) {
        CHECK((*error)->status == status && (*error)->struct_size >= sizeof **error && (*error)->message.length > 0);
        (*error)->release(*error);
        *error = NULL;
    }
    return status;
}

/* The host's functions. */
static translora_instance *reentered = NULL;
static int lines_logged = 0, may_swap = 1;
static pthread_t decoder;

static void take_line(void *context, int32_t level, translora_text line) {
    if (context != &lines_logged || level != TRANSLORA_LOG_ERROR || line.length == 0) return;
    lines_logged++;
    if (reentered) {
        translora_info info;
        memset(&info, 0, sizeof info);
        info.struct_size = sizeof info;
        CHECK(entry->info(reentered, &info, NULL) == TRANSLORA_REENTERED && info.abi_major == 0);
        CHECK(entry->destroy(reentered, NULL) == TRANSLORA_REENTERED);
    }
}
static int32_t is_decode_thread(void *context) { (void)context; return pthread_equal(pthread_self(), decoder); }
static translora_status adapter_load(void *context, translora_text path, uint64_t *out) {
    (void)context; (void)path;
    if (!may_swap) return TRANSLORA_MACHINE;
    *out = 1;
    return TRANSLORA_OK;
}
static translora_status adapter_set(void *context, translora_text name, uint64_t adapter, uint64_t generation) {
    (void)context; (void)name; (void)adapter; (void)generation;
    return may_swap ? TRANSLORA_OK : TRANSLORA_MACHINE;
}
static translora_status adapter_free(void *context, uint64_t adapter) { (void)context; (void)adapter; return TRANSLORA_OK; }

static translora_host whole(void) {
    translora_host host = {sizeof host, 0, &lines_logged, take_line, is_decode_thread, adapter_load, adapter_set, adapter_free};
    return host;
}

static translora_instance *create(void) {
    translora_host host = whole();
    translora_instance *instance = NULL;
    translora_error *error = NULL;
    CHECK(said(entry->create(&host, &instance, &error), &error) == TRANSLORA_OK && instance != NULL);
    return instance;
}

static void echo(void) {
    translora_instance *instance = create();
    const translora_echo_1 *table = entry->capability(text(TRANSLORA_ECHO_1));
    CHECK(table != NULL && table->struct_size >= sizeof *table);
    if (table == NULL) return;
    translora_string *back = NULL;
    translora_error *error = NULL;
    CHECK(said(table->echo(instance, text("hello"), &back, &error), &error) == TRANSLORA_OK);
    CHECK(back != NULL && same(back->text, "hello"));
    if (back) back->release(back);
    CHECK(table->fail(instance, TRANSLORA_MACHINE, text("no room"), &error) == TRANSLORA_MACHINE);
    CHECK(error != NULL && error->status == TRANSLORA_MACHINE && same(error->message, "no room"));
    if (error) error->release(error);
    error = NULL;
    reentered = instance;
    CHECK(said(table->panic(instance, &error), &error) == TRANSLORA_PANICKED);
    reentered = NULL;
    CHECK(table->echo(instance, text("hello"), &back, NULL) == TRANSLORA_POISONED);
    CHECK(lines_logged == 1);
    translora_info info;
    memset(&info, 0, sizeof info);
    info.struct_size = sizeof info;
    CHECK(entry->info(instance, &info, NULL) == TRANSLORA_OK && info.poisoned == 1);
    CHECK(entry->destroy(instance, NULL) == TRANSLORA_OK);
}

static void inspect(const char *file) {
    translora_instance *instance = create();
    const translora_inspect_1 *table = entry->capability(text(TRANSLORA_INSPECT_1));
    CHECK(table != NULL);
    if (table == NULL) return;
    translora_string *json = NULL;
    translora_error *error = NULL;
    CHECK(table->inspect(instance, text(file), &json, &error) == TRANSLORA_INPUT);
    CHECK(json == NULL && error != NULL && error->message.length > 0);
    if (error) {
        printf("refused: %.*s\n", (int)error->message.length, error->message.data);
        error->release(error);
    }
    CHECK(entry->destroy(instance, NULL) == TRANSLORA_OK);
}

static void before_create_and_after_destroy(void) {
    const translora_jobs_1 *jobs = entry->capability(text(TRANSLORA_JOBS_1));
    CHECK(jobs != NULL && jobs->struct_size >= sizeof *jobs);
    if (jobs == NULL) return;
    translora_string *out = NULL;
    translora_error *error = NULL;
    CHECK(said(jobs->list(NULL, &out, &error), &error) == TRANSLORA_BAD_HANDLE);
    CHECK(said(jobs->list((translora_instance *)(uintptr_t)0x1234567, &out, &error), &error) == TRANSLORA_BAD_HANDLE);
    translora_instance *instance = create();
    CHECK(said(jobs->list(instance, &out, &error), &error) == TRANSLORA_OK && same(out->text, "[]"));
    out->release(out);
    out = NULL;
    CHECK(entry->destroy(instance, NULL) == TRANSLORA_OK);
    CHECK(entry->destroy(instance, NULL) == TRANSLORA_BAD_HANDLE);
    CHECK(said(jobs->list(instance, &out, &error), &error) == TRANSLORA_BAD_HANDLE && out == NULL);
}

static void sizes_and_lengths(void) {
    translora_error *error = NULL;
    translora_instance *instance = NULL;
    translora_host host = whole();
    for (uint32_t size = 0; size < 24; size++) {
        host.struct_size = size;
        CHECK(said(entry->create(&host, &instance, &error), &error) == TRANSLORA_INVALID_ARGUMENT && instance == NULL);
    }
    /* A host of version 1.0: its table ends behind log, and nothing lies behind it. */
    char *old = malloc(24);
    host.struct_size = 24;
    memcpy(old, &host, 24);
    CHECK(said(entry->create((translora_host *)old, &instance, &error), &error) == TRANSLORA_OK);
    const translora_hotswap_1 *swap = entry->capability(text(TRANSLORA_HOTSWAP_1));
    const translora_jobs_1 *jobs = entry->capability(text(TRANSLORA_JOBS_1));
    uint64_t number = 0;
    CHECK(said(swap->prepare(instance, text("a"), text("b"), &number, &error), &error) == TRANSLORA_UNSUPPORTED && number == 0);
    CHECK(entry->destroy(instance, NULL) == TRANSLORA_OK);
    free(old);
    /* One of a version to come. */
    char new[sizeof host + 64];
    memset(new, 0x5a, sizeof new);
    host.struct_size = sizeof new;
    memcpy(new, &host, sizeof host);
    CHECK(said(entry->create((translora_host *)new, &instance, &error), &error) == TRANSLORA_OK);

    translora_text absurd = {"x", UINT64_MAX}, nothing = {NULL, 8}, broken = {"\xff\xfe", 2};
    CHECK(said(jobs->start(instance, absurd, &number, &error), &error) == TRANSLORA_INVALID_ARGUMENT);
    CHECK(said(jobs->start(instance, nothing, &number, &error), &error) == TRANSLORA_INVALID_ARGUMENT);
    CHECK(said(jobs->start(instance, broken, &number, &error), &error) == TRANSLORA_INVALID_ARGUMENT);
    CHECK(said(jobs->start(instance, text("{}"), &number, &error), &error) == TRANSLORA_INPUT);
    CHECK(said(jobs->start(instance, text("[[[[[["), &number, &error), &error) == TRANSLORA_INPUT);
    CHECK(said(jobs->start(instance, text("{}"), NULL, &error), &error) == TRANSLORA_INVALID_ARGUMENT);
    CHECK(said(jobs->configure(instance, text("{\"thread\": 1}"), &error), &error) == TRANSLORA_INPUT && number == 0);
    translora_job_progress progress;
    memset(&progress, 0, sizeof progress);
    progress.struct_size = 8;
    CHECK(said(jobs->poll(instance, 1, &progress, &error), &error) == TRANSLORA_INVALID_ARGUMENT);
    CHECK(entry->capability(absurd) == NULL && entry->capability(nothing) == NULL && entry->capability(text("")) == NULL);
    CHECK(entry->destroy(instance, NULL) == TRANSLORA_OK);
}

static void stale_jobs(void) {
    const translora_jobs_1 *jobs = entry->capability(text(TRANSLORA_JOBS_1));
    translora_instance *instance = create(), *other = create();
    translora_error *error = NULL;
    translora_string *out = NULL;
    translora_job job = 0;
    /* It fails by itself, because the files are not there: in a worker, or for want of one. */
    CHECK(said(jobs->configure(instance, text("{\"isolation\": \"thread\"}"), &error), &error) == TRANSLORA_OK);
    const char *request = "{\"source\":\"no\",\"source_lora\":\"no\",\"target\":\"no\",\"seeds\":\"no\",\"out\":\"no-such/out\"}";
    CHECK(said(jobs->start(instance, text(request), &job, &error), &error) == TRANSLORA_OK && job != 0);
    CHECK(said(jobs->configure(instance, text("{}"), &error), &error) == TRANSLORA_NOT_NOW);
    translora_job_progress progress;
    memset(&progress, 0, sizeof progress);
    progress.struct_size = sizeof progress;
    CHECK(said(jobs->poll(other, job, &progress, &error), &error) == TRANSLORA_BAD_HANDLE);
    do {
        CHECK(said(jobs->wait(instance, job, 1000, &progress, &error), &error) == TRANSLORA_OK);
    } while (progress.state < TRANSLORA_JOB_DONE);
    CHECK(progress.state == TRANSLORA_JOB_FAILED && progress.process == 0);
    CHECK(said(jobs->report(instance, job, &out, &error), &error) == TRANSLORA_INPUT && out == NULL);
    CHECK(said(jobs->free(instance, job, &error), &error) == TRANSLORA_OK);
    CHECK(said(jobs->free(instance, job, &error), &error) == TRANSLORA_BAD_HANDLE);
    CHECK(said(jobs->poll(instance, job, &progress, &error), &error) == TRANSLORA_BAD_HANDLE);
    CHECK(said(jobs->wait(instance, UINT64_MAX, 1, &progress, &error), &error) == TRANSLORA_BAD_HANDLE);
    CHECK(said(jobs->cancel(instance, 0, &error), &error) == TRANSLORA_BAD_HANDLE);
    CHECK(entry->destroy(instance, NULL) == TRANSLORA_OK && entry->destroy(other, NULL) == TRANSLORA_OK);
}

static void *swap_elsewhere(void *instance) {
    const translora_hotswap_1 *swap = entry->capability(text(TRANSLORA_HOTSWAP_1));
    translora_error *error = NULL;
    uint64_t generation = 0;
    CHECK(said(swap->commit(instance, 1, &generation, &error), &error) == TRANSLORA_WRONG_THREAD);
    CHECK(said(swap->rollback(instance, text("a"), &generation, &error), &error) == TRANSLORA_WRONG_THREAD);
    CHECK(said(swap->unload(instance, text("a"), &generation, &error), &error) == TRANSLORA_WRONG_THREAD && generation == 0);
    return NULL;
}

static void wrong_thread(const char *file) {
    const translora_hotswap_1 *swap = entry->capability(text(TRANSLORA_HOTSWAP_1));
    translora_instance *instance = create();
    translora_error *error = NULL;
    pthread_t other;
    pthread_create(&other, NULL, swap_elsewhere, instance);
    pthread_join(other, NULL);
    uint64_t number = 0;
    CHECK(said(swap->commit(instance, 1, &number, &error), &error) == TRANSLORA_BAD_HANDLE);
    CHECK(said(swap->rollback(instance, text("a"), &number, &error), &error) == TRANSLORA_INPUT);
    CHECK(said(swap->prepare(instance, text("a"), text(file), &number, &error), &error) == TRANSLORA_NOT_NOW && number == 0);
    CHECK(entry->destroy(instance, NULL) == TRANSLORA_OK);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: host PLUGIN FILE\n");
        return 2;
    }
    void *handle = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) { printf("FAILED dlopen: %s\n", dlerror()); return 1; }
    const translora_entry *(*get_entry)(uint32_t) = NULL;
    void *symbol = dlsym(handle, "translora_get_entry");
    if (symbol == NULL) { printf("FAILED: translora_get_entry is not exported\n"); return 1; }
    memcpy(&get_entry, &symbol, sizeof symbol);
    CHECK(get_entry(TRANSLORA_ABI_MAJOR + 1) == NULL);
    entry = get_entry(TRANSLORA_ABI_MAJOR);
    CHECK(entry != NULL && entry->struct_size >= sizeof *entry && entry->abi_major == TRANSLORA_ABI_MAJOR);
    if (entry == NULL) return 1;
    decoder = pthread_self();
    CHECK(entry->capability(text("translora.absent/1")) == NULL);
    inspect(argv[2]);
    echo();
    before_create_and_after_destroy();
    sizes_and_lengths();
    stale_jobs();
    wrong_thread(argv[2]);
    printf("%s\n", failures ? "FAILED" : "all well");
    return failures != 0;
}
