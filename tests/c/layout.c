/* Prints the layout of every struct and every number of the header, as translora_abi::layout() does. C11 and C++17. */
#include <stddef.h>
#include <stdio.h>

#include "translora.h"

#define STRUCT(s) printf(#s " %u\n", (unsigned)sizeof(s))
#define FIELD(s, f) printf(#s "." #f " %u\n", (unsigned)offsetof(s, f))
#define NUMBER(prefix, name, value) printf("%s %lld\n", name, (long long)(prefix##value))

static void entry(void) {
    STRUCT(translora_text); FIELD(translora_text, data); FIELD(translora_text, length);
    STRUCT(translora_string); FIELD(translora_string, struct_size); FIELD(translora_string, reserved);
    FIELD(translora_string, text); FIELD(translora_string, release);
    STRUCT(translora_error); FIELD(translora_error, struct_size); FIELD(translora_error, status);
    FIELD(translora_error, message); FIELD(translora_error, hint); FIELD(translora_error, release);
    STRUCT(translora_host); FIELD(translora_host, struct_size); FIELD(translora_host, reserved);
    FIELD(translora_host, context); FIELD(translora_host, log); FIELD(translora_host, is_decode_thread);
    FIELD(translora_host, adapter_load); FIELD(translora_host, adapter_set); FIELD(translora_host, adapter_free);
    STRUCT(translora_info); FIELD(translora_info, struct_size); FIELD(translora_info, abi_major); FIELD(translora_info, abi_minor);
    FIELD(translora_info, poisoned); FIELD(translora_info, version); FIELD(translora_info, engine);
    STRUCT(translora_entry); FIELD(translora_entry, struct_size); FIELD(translora_entry, abi_major);
    FIELD(translora_entry, abi_minor); FIELD(translora_entry, reserved); FIELD(translora_entry, create);
    FIELD(translora_entry, destroy); FIELD(translora_entry, info); FIELD(translora_entry, capability);
}

static void capabilities(void) {
    STRUCT(translora_echo_1); FIELD(translora_echo_1, struct_size); FIELD(translora_echo_1, reserved);
    FIELD(translora_echo_1, echo); FIELD(translora_echo_1, fail); FIELD(translora_echo_1, panic);
    STRUCT(translora_inspect_1); FIELD(translora_inspect_1, struct_size); FIELD(translora_inspect_1, reserved);
    FIELD(translora_inspect_1, inspect);
    STRUCT(translora_job_progress); FIELD(translora_job_progress, struct_size); FIELD(translora_job_progress, state);
    FIELD(translora_job_progress, ahead); FIELD(translora_job_progress, process); FIELD(translora_job_progress, done);
    FIELD(translora_job_progress, total); FIELD(translora_job_progress, last_event); FIELD(translora_job_progress, stage);
    STRUCT(translora_jobs_1); FIELD(translora_jobs_1, struct_size); FIELD(translora_jobs_1, reserved);
    FIELD(translora_jobs_1, configure); FIELD(translora_jobs_1, start); FIELD(translora_jobs_1, poll);
    FIELD(translora_jobs_1, wait); FIELD(translora_jobs_1, events); FIELD(translora_jobs_1, status);
    FIELD(translora_jobs_1, list); FIELD(translora_jobs_1, cancel); FIELD(translora_jobs_1, report); FIELD(translora_jobs_1, free);
    STRUCT(translora_adapters_1); FIELD(translora_adapters_1, struct_size); FIELD(translora_adapters_1, reserved);
    FIELD(translora_adapters_1, base); FIELD(translora_adapters_1, check); FIELD(translora_adapters_1, list);
    STRUCT(translora_hotswap_1); FIELD(translora_hotswap_1, struct_size); FIELD(translora_hotswap_1, reserved);
    FIELD(translora_hotswap_1, prepare); FIELD(translora_hotswap_1, commit); FIELD(translora_hotswap_1, discard);
    FIELD(translora_hotswap_1, rollback); FIELD(translora_hotswap_1, unload);
}

static void numbers(void) {
    NUMBER(TRANSLORA_, "ABI_MAJOR", ABI_MAJOR); NUMBER(TRANSLORA_, "ABI_MINOR", ABI_MINOR); NUMBER(TRANSLORA_, "LOG_ERROR", LOG_ERROR);
    NUMBER(TRANSLORA_, "TEXT_BYTES_MAX", TEXT_BYTES_MAX);
    NUMBER(TRANSLORA_, "InvalidArgument", INVALID_ARGUMENT); NUMBER(TRANSLORA_, "BadHandle", BAD_HANDLE);
    NUMBER(TRANSLORA_, "Poisoned", POISONED); NUMBER(TRANSLORA_, "Panicked", PANICKED); NUMBER(TRANSLORA_, "Cancelled", CANCELLED);
    NUMBER(TRANSLORA_, "Input", INPUT); NUMBER(TRANSLORA_, "Machine", MACHINE); NUMBER(TRANSLORA_, "Internal", INTERNAL);
    NUMBER(TRANSLORA_, "WrongThread", WRONG_THREAD); NUMBER(TRANSLORA_, "Reentered", REENTERED);
    NUMBER(TRANSLORA_, "Unsupported", UNSUPPORTED); NUMBER(TRANSLORA_, "NotNow", NOT_NOW);
    NUMBER(TRANSLORA_JOB_, "JobWaiting", WAITING); NUMBER(TRANSLORA_JOB_, "JobRunning", RUNNING); NUMBER(TRANSLORA_JOB_, "JobDone", DONE);
    NUMBER(TRANSLORA_JOB_, "JobFailed", FAILED); NUMBER(TRANSLORA_JOB_, "JobCancelled", CANCELLED);
}

int main(void) {
    entry();
    capabilities();
    numbers();
    return 0;
}
