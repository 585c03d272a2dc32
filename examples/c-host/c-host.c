/* A complete small host in C. It needs translora.h and a libtranslora; it knows nothing of Rust, models or JSON.
 *
 *   cc -std=c11 -I ffi/abi/include examples/c-host/c-host.c -o c-host -ldl
 *   ./c-host libtranslora.so inspect FILE           say what a model, an adapter or a kit is
 *   ./c-host libtranslora.so transfer REQUEST.json  move an adapter, as REQUEST.json asks: the flags of `translora transfer` as one
 *                                                   JSON object (ffi/abi/README.md); Ctrl-C cancels
 *
 * Exit status: 0 done, 1 refused by evidence, 2 error. The worker program `translora` lies beside the library, or TRANSLORA_WORKER
 * names it.
 */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "translora.h"

static volatile sig_atomic_t interrupted = 0;
static void on_interrupt(int signal) { (void)signal; interrupted = 1; }

static translora_text text(const char *s) { translora_text t = {s, strlen(s)}; return t; }

/* A line of the library's for our log. Called on the thread of whatever call has something to say; it must not call the library. */
static void take_line(void *context, int32_t level, translora_text line) {
    (void)context;
    const char *name = level == TRANSLORA_LOG_ERROR ? "error" : level == TRANSLORA_LOG_WARNING ? "warning" : "note";
    fprintf(stderr, "%s: %.*s\n", name, (int)line.length, line.data);
}

/* Tell why a call failed, and release the error. */
static int failed(const char *doing, translora_status status, translora_error *error) {
    if (error == NULL) {
        fprintf(stderr, "error: %s: status %d\n", doing, (int)status);
        return 2;
    }
    fprintf(stderr, "error: %s: %.*s\n", doing, (int)error->message.length, error->message.data);
    if (error->hint.length > 0) fprintf(stderr, "hint: %.*s\n", (int)error->hint.length, error->hint.data);
    error->release(error);
    return 2;
}

static char *read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) return NULL;
    char *content = NULL;
    size_t length = 0, room = 0, got;
    do {
        if (room - length < 2) {
            char *more = realloc(content, room = room ? 2 * room : 4096);
            if (more == NULL) { free(content); fclose(file); return NULL; }
            content = more;
        }
        got = fread(content + length, 1, room - length - 1, file);
        length += got;
    } while (got > 0);
    content[length] = 0;
    fclose(file);
    return content;
}

static int inspect(const translora_entry *entry, translora_instance *instance, const char *path) {
    const translora_inspect_1 *table = entry->capability(text(TRANSLORA_INSPECT_1));
    if (table == NULL) return fprintf(stderr, "error: this library does not inspect files\n"), 2;
    translora_string *json = NULL;
    translora_error *error = NULL;
    translora_status status = table->inspect(instance, text(path), &json, &error);
    if (status != TRANSLORA_OK) return failed("inspect", status, error);
    printf("%.*s\n", (int)json->text.length, json->text.data);
    json->release(json);
    return 0;
}

/* Print the progress of a job while it goes on; cancel it when Ctrl-C was pressed. */
static int follow(const translora_jobs_1 *jobs, translora_instance *instance, translora_job job, translora_job_progress *now) {
    translora_error *error = NULL;
    int cancelled = 0;
    uint32_t process = 0;
    uint64_t last_event = 0;
    do {
        if (interrupted && !cancelled) {
            cancelled = 1;
            fprintf(stderr, "cancelling\n");
            translora_status status = jobs->cancel(instance, job, &error);
            if (status != TRANSLORA_OK) return failed("cancel", status, error);
        }
        translora_status status = jobs->wait(instance, job, 100, now, &error);
        if (status != TRANSLORA_OK) return failed("wait", status, error);
        if (now->process != process) {
            if (now->process != 0) fprintf(stderr, "worker %lu\n", (unsigned long)now->process);
            process = now->process;
        }
        if (now->last_event != last_event) {
            fprintf(stderr, "%-9.*s %llu/%llu\n", (int)now->stage.length, now->stage.data, (unsigned long long)now->done,
                    (unsigned long long)now->total);
            last_event = now->last_event;
        }
    } while (now->state == TRANSLORA_JOB_WAITING || now->state == TRANSLORA_JOB_RUNNING);
    return 0;
}

static int transfer(const translora_entry *entry, translora_instance *instance, const char *request_path) {
    const translora_jobs_1 *jobs = entry->capability(text(TRANSLORA_JOBS_1));
    if (jobs == NULL || jobs->struct_size < sizeof *jobs) return fprintf(stderr, "error: this library runs no jobs\n"), 2;
    char *request = read_file(request_path);
    if (request == NULL) return fprintf(stderr, "error: %s: cannot be read\n", request_path), 2;
    translora_job job = 0;
    translora_error *error = NULL;
    translora_status status = jobs->start(instance, text(request), &job, &error);
    free(request);
    if (status != TRANSLORA_OK) return failed("start", status, error);

    translora_job_progress now;
    memset(&now, 0, sizeof now);
    now.struct_size = sizeof now;
    int code = follow(jobs, instance, job, &now);
    if (code != 0) return code;
    translora_string *report = NULL;
    status = jobs->report(instance, job, &report, &error);
    if (status != TRANSLORA_OK) return failed(now.state == TRANSLORA_JOB_CANCELLED ? "transfer cancelled" : "transfer", status, error);
    printf("%.*s\n", (int)report->text.length, report->text.data);
    /* The one thing that we look for in the JSON: a field that is always there and comes once. */
    char *verdict = report->text.length < 1 ? NULL : strndup(report->text.data, report->text.length);
    code = verdict != NULL && strstr(verdict, "\"verdict\":\"accept\"") != NULL ? 0 : 1;
    free(verdict);
    report->release(report);
    jobs->free(instance, job, NULL);
    return code;
}

int main(int argc, char **argv) {
    if (argc != 4 || (strcmp(argv[2], "inspect") != 0 && strcmp(argv[2], "transfer") != 0)) {
        fprintf(stderr, "usage: c-host LIBRARY inspect FILE | c-host LIBRARY transfer REQUEST.json\n");
        return 2;
    }
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) return fprintf(stderr, "error: %s\n", dlerror()), 2;
    /* ISO C has no cast from void * to a function. */
    const translora_entry *(*get_entry)(uint32_t) = NULL;
    void *symbol = dlsym(library, "translora_get_entry");
    if (symbol == NULL) return fprintf(stderr, "error: %s is no translora plugin\n", argv[1]), 2;
    memcpy(&get_entry, &symbol, sizeof symbol);
    const translora_entry *entry = get_entry(TRANSLORA_ABI_MAJOR);
    if (entry == NULL) return fprintf(stderr, "error: %s speaks another version of the ABI\n", argv[1]), 2;

    translora_host host;
    memset(&host, 0, sizeof host);
    host.struct_size = sizeof host;
    host.log = take_line;
    translora_instance *instance = NULL;
    translora_error *error = NULL;
    translora_status status = entry->create(&host, &instance, &error);
    if (status != TRANSLORA_OK) return failed("create", status, error);
    translora_info info;
    memset(&info, 0, sizeof info);
    info.struct_size = sizeof info;
    status = entry->info(instance, &info, &error);
    if (status != TRANSLORA_OK) return failed("info", status, error);
    fprintf(stderr, "translora %.*s, engine %.*s, ABI %u.%u\n", (int)info.version.length, info.version.data, (int)info.engine.length,
            info.engine.data, (unsigned)info.abi_major, (unsigned)info.abi_minor);

    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt;
    sigaction(SIGINT, &action, NULL);
    int code = strcmp(argv[2], "inspect") == 0 ? inspect(entry, instance, argv[3]) : transfer(entry, instance, argv[3]);
    status = entry->destroy(instance, &error);
    if (status != TRANSLORA_OK) return failed("destroy", status, error);
    return code;
}
