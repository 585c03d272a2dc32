/* A host in C11: what the header promises, seen from the other side of the border.
 *
 *   host --layout            print the layout of every struct, as translora_abi::layout() does
 *   host PLUGIN FILE         load the plugin like any stranger and try it; FILE is something to inspect that does not exist
 */
#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "translora.h"

#define STRUCT(s) printf(#s " %zu\n", sizeof(s))
#define FIELD(s, f) printf(#s "." #f " %zu\n", offsetof(s, f))

static int layout(void) {
    STRUCT(translora_text); FIELD(translora_text, data); FIELD(translora_text, length);
    STRUCT(translora_string); FIELD(translora_string, struct_size); FIELD(translora_string, reserved);
    FIELD(translora_string, text); FIELD(translora_string, release);
    STRUCT(translora_error); FIELD(translora_error, struct_size); FIELD(translora_error, status);
    FIELD(translora_error, message); FIELD(translora_error, hint); FIELD(translora_error, release);
    STRUCT(translora_host); FIELD(translora_host, struct_size); FIELD(translora_host, reserved);
    FIELD(translora_host, context); FIELD(translora_host, log);
    STRUCT(translora_info); FIELD(translora_info, struct_size); FIELD(translora_info, abi_major); FIELD(translora_info, abi_minor);
    FIELD(translora_info, poisoned); FIELD(translora_info, version); FIELD(translora_info, engine);
    STRUCT(translora_entry); FIELD(translora_entry, struct_size); FIELD(translora_entry, abi_major);
    FIELD(translora_entry, abi_minor); FIELD(translora_entry, reserved); FIELD(translora_entry, create);
    FIELD(translora_entry, destroy); FIELD(translora_entry, info); FIELD(translora_entry, capability);
    STRUCT(translora_echo_1); FIELD(translora_echo_1, struct_size); FIELD(translora_echo_1, reserved);
    FIELD(translora_echo_1, echo); FIELD(translora_echo_1, fail); FIELD(translora_echo_1, panic);
    STRUCT(translora_inspect_1); FIELD(translora_inspect_1, struct_size); FIELD(translora_inspect_1, reserved);
    FIELD(translora_inspect_1, inspect);
    printf("ABI_MAJOR %u\nABI_MINOR %u\nLOG_ERROR %d\n", TRANSLORA_ABI_MAJOR, TRANSLORA_ABI_MINOR, TRANSLORA_LOG_ERROR);
    printf("TEXT_BYTES_MAX %u\n", TRANSLORA_TEXT_BYTES_MAX);
    printf("InvalidArgument %d\nBadHandle %d\n", TRANSLORA_INVALID_ARGUMENT, TRANSLORA_BAD_HANDLE);
    printf("Poisoned %d\nPanicked %d\nCancelled %d\n", TRANSLORA_POISONED, TRANSLORA_PANICKED, TRANSLORA_CANCELLED);
    printf("Input %d\nMachine %d\nInternal %d\n", TRANSLORA_INPUT, TRANSLORA_MACHINE, TRANSLORA_INTERNAL);
    return 0;
}

static int failures = 0;
#define CHECK(what) do { if (!(what)) { printf("FAILED line %d: %s\n", __LINE__, #what); failures++; } } while (0)

static translora_text text(const char *s) { translora_text t = {s, strlen(s)}; return t; }
static int same(translora_text t, const char *s) { return t.length == strlen(s) && memcmp(t.data, s, strlen(s)) == 0; }

static int lines_logged = 0;
static void take_line(void *context, int32_t level, translora_text line) {
    if (context == &lines_logged && level == TRANSLORA_LOG_ERROR && line.length > 0) lines_logged++;
}

static void check_echo(const translora_entry *entry, translora_instance *instance) {
    const translora_echo_1 *echo = entry->capability(text(TRANSLORA_ECHO_1));
    CHECK(echo != NULL && echo->struct_size >= sizeof *echo);
    if (echo == NULL) return;
    translora_string *back = NULL;
    translora_error *error = NULL;
    CHECK(echo->echo(instance, text("hello"), &back, &error) == TRANSLORA_OK && error == NULL);
    CHECK(back != NULL && same(back->text, "hello"));
    if (back) back->release(back);
    CHECK(echo->fail(instance, TRANSLORA_MACHINE, text("no room"), &error) == TRANSLORA_MACHINE);
    CHECK(error != NULL && error->status == TRANSLORA_MACHINE && same(error->message, "no room"));
    if (error) error->release(error);
    error = NULL;
    CHECK(echo->panic(instance, &error) == TRANSLORA_PANICKED && error != NULL);
    if (error) error->release(error);
    CHECK(echo->echo(instance, text("hello"), &back, NULL) == TRANSLORA_POISONED);
    CHECK(lines_logged == 1);
    translora_info info;
    memset(&info, 0, sizeof info);
    info.struct_size = sizeof info;
    CHECK(entry->info(instance, &info, NULL) == TRANSLORA_OK && info.poisoned == 1);
}

static void check_inspect(const translora_entry *entry, translora_instance *instance, const char *file) {
    const translora_inspect_1 *inspect = entry->capability(text(TRANSLORA_INSPECT_1));
    CHECK(inspect != NULL);
    if (inspect == NULL) return;
    translora_string *json = NULL;
    translora_error *error = NULL;
    CHECK(inspect->inspect(instance, text(file), &json, &error) == TRANSLORA_INPUT);
    CHECK(json == NULL && error != NULL && error->message.length > 0);
    if (error) {
        printf("refused: %.*s\n", (int)error->message.length, error->message.data);
        error->release(error);
    }
}

static int try_plugin(const char *library, const char *file) {
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) { printf("FAILED dlopen: %s\n", dlerror()); return 1; }
    const translora_entry *(*get_entry)(uint32_t) = NULL;
    void *symbol = dlsym(handle, "translora_get_entry");
    if (symbol == NULL) { printf("FAILED: translora_get_entry is not exported\n"); return 1; }
    memcpy(&get_entry, &symbol, sizeof symbol);
    CHECK(get_entry(TRANSLORA_ABI_MAJOR + 1) == NULL);
    const translora_entry *entry = get_entry(TRANSLORA_ABI_MAJOR);
    CHECK(entry != NULL && entry->struct_size >= sizeof *entry && entry->abi_major == TRANSLORA_ABI_MAJOR);
    if (entry == NULL) return 1;

    translora_host host = {sizeof host, 0, &lines_logged, take_line};
    translora_instance *instance = NULL;
    CHECK(entry->create(&host, &instance, NULL) == TRANSLORA_OK && instance != NULL);
    translora_info info;
    memset(&info, 0, sizeof info);
    info.struct_size = sizeof info;
    CHECK(entry->info(instance, &info, NULL) == TRANSLORA_OK && info.version.length > 0 && info.poisoned == 0);
    printf("translora %.*s, engine %.*s\n", (int)info.version.length, info.version.data, (int)info.engine.length, info.engine.data);
    CHECK(entry->capability(text("translora.absent/1")) == NULL);
    check_inspect(entry, instance, file);
    check_echo(entry, instance);
    CHECK(entry->destroy(instance, NULL) == TRANSLORA_OK);
    CHECK(entry->destroy(instance, NULL) == TRANSLORA_BAD_HANDLE);
    printf("%s\n", failures ? "FAILED" : "all well");
    return failures != 0;
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "--layout") == 0) return layout();
    if (argc == 3) return try_plugin(argv[1], argv[2]);
    fprintf(stderr, "usage: host --layout | host PLUGIN FILE\n");
    return 2;
}
