/*
 * translora.h - the C ABI of the translora plugin. SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * This file is the law: where the code and this text differ, the code is wrong.
 *
 * Conventions, true of everything below
 *   entry      One symbol is exported, translora_get_entry. Everything else is reached from the table that it returns.
 *   growth     Every table starts with struct_size, the bytes its maker knows. Tables only ever grow at the end, so a reader checks
 *              struct_size before it touches a later field. A function that is not there is NULL; nothing is a stub.
 *   text       Pointer and length, UTF-8, no terminating zero needed or promised. An argument is read during the call only.
 *   ownership  Who allocates frees: what a call returns carries its own release function.
 *   outputs    Come last, and are written on success only. An error is written on failure only, and only where there is a place for it.
 *   status     Every fallible call returns one of the codes below; codes are never reused. New codes may appear: treat an unknown
 *              one as TRANSLORA_INTERNAL.
 *   panics     None leaves the library. A call that panics answers TRANSLORA_PANICKED and poisons its instance: later calls on it
 *              answer TRANSLORA_POISONED, except info and destroy. Other instances and the process go on.
 *   threads    Each function says where it may be called. [any-thread]: from any thread, at the same time as any other call.
 *              [background]: as any-thread, but it may take long and read files, so never from a thread that decodes.
 *              [host-decode-thread]: from the thread on which the host decodes, between two decodes, and never while another call so
 *              tagged is under way. Checked where the host offers is_decode_thread.
 *   callbacks  A function of the host's table must not call this library: such a call answers TRANSLORA_REENTERED.
 */
#ifndef TRANSLORA_H
#define TRANSLORA_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TRANSLORA_ABI_MAJOR 1u
#define TRANSLORA_ABI_MINOR 1u

/* The most bytes that a text argument may have. */
#define TRANSLORA_TEXT_BYTES_MAX 67108864u

typedef int32_t translora_status;

#define TRANSLORA_OK 0
#define TRANSLORA_INVALID_ARGUMENT 1 /* a null or misaligned pointer, a struct_size too small, a text that is not UTF-8 */
#define TRANSLORA_BAD_HANDLE 2       /* not an instance of this library, or one that was destroyed */
#define TRANSLORA_POISONED 3         /* an earlier call on this instance panicked */
#define TRANSLORA_PANICKED 4         /* this call panicked; its instance is poisoned now */
#define TRANSLORA_CANCELLED 5        /* somebody stopped it */
#define TRANSLORA_INPUT 6            /* a file or value of the caller is at fault; the message names it */
#define TRANSLORA_MACHINE 7          /* memory, disk or device */
#define TRANSLORA_INTERNAL 8         /* a bug in this library */
/* since 1.1 */
#define TRANSLORA_WRONG_THREAD 9 /* the function is for the host's decode thread, and the host says that this is another */
#define TRANSLORA_REENTERED 10   /* called from inside a function of the host's table */
#define TRANSLORA_UNSUPPORTED 11 /* the host's table lacks what this call needs */
#define TRANSLORA_NOT_NOW 12     /* the job has not ended, the queue is full, there is nothing to go back to */

#define TRANSLORA_LOG_ERROR 1
#define TRANSLORA_LOG_WARNING 2
#define TRANSLORA_LOG_INFO 3

/* A borrowed text. data may be NULL when length is 0. Never grows, so it has no struct_size. */
typedef struct translora_text {
    const char *data;
    uint64_t length;
} translora_text;

/* A text of the library. Valid until its release is called, once, with its own address [any-thread]. */
typedef struct translora_string {
    uint32_t struct_size;
    uint32_t reserved;
    translora_text text;
    void (*release)(struct translora_string *self);
} translora_string;

/* Why a call failed. Valid until its release is called, once, with its own address [any-thread]. hint says what to do and may be
 * empty. */
typedef struct translora_error {
    uint32_t struct_size;
    translora_status status;
    translora_text message;
    translora_text hint;
    void (*release)(struct translora_error *self);
} translora_error;

/* What the host offers. Copied by create, as far as struct_size says; a host of 1.0, whose table ends behind log, is as good.
 * context and the functions must stay valid until destroy has returned and every call that was under way on the instance has
 * returned too. No function may unwind. */
typedef struct translora_host {
    uint32_t struct_size;
    uint32_t reserved;
    void *context;
    /* Takes a line for the host's log; may be NULL. Must not unwind. Called on the thread of the call that has something to say. */
    void (*log)(void *context, int32_t level, translora_text line);

    /* Since 1.1. Each may be NULL: the host cannot do it. The adapter functions are called from inside commit, rollback and unload
     * of translora.hotswap/1 only, so on the thread that the host called those on. A status other than TRANSLORA_OK fails the call. */

    /* Answer 1 on the thread that decodes, else 0. [any-thread] */
    int32_t (*is_decode_thread)(void *context);
    /* Load the LoRA file at path onto the model that is served; *out becomes its number, which must not be 0. */
    translora_status (*adapter_load)(void *context, translora_text path, uint64_t *out);
    /* From the next decode on, answer requests for name with this adapter, or with the bare base where it is 0. generation is the
     * number of one load, 0 of the bare base; a rollback brings one back. What was computed under another one (KV) must not be used for it. */
    translora_status (*adapter_set)(void *context, translora_text name, uint64_t adapter, uint64_t generation);
    /* Free an adapter that no name is set to any more. */
    translora_status (*adapter_free)(void *context, uint64_t adapter);
} translora_host;

/* What the library and an instance are. The caller sets struct_size; fields beyond it are not written. The texts live as long as
 * the library is loaded. */
typedef struct translora_info {
    uint32_t struct_size;
    uint32_t abi_major;
    uint32_t abi_minor;
    int32_t poisoned; /* 0 or 1 */
    translora_text version;
    translora_text engine; /* "ggml", or "toy" in a build without llama.cpp */
} translora_info;

/* A handle, never dereferenced: a stale one is recognised. */
typedef struct translora_instance translora_instance;

typedef struct translora_entry {
    uint32_t struct_size;
    uint32_t abi_major;
    uint32_t abi_minor;
    uint32_t reserved;

    /* [any-thread] Make an instance. host may be NULL. */
    translora_status (*create)(const translora_host *host, translora_instance **out, translora_error **error);

    /* [any-thread] End an instance. A call under way on another thread finishes first in its own time; it stays valid for it. Jobs
     * of the instance are cancelled, and waited for: two seconds at most, where they run in processes. */
    translora_status (*destroy)(translora_instance *instance, translora_error **error);

    /* [any-thread] Say what the library and this instance are. */
    translora_status (*info)(translora_instance *instance, translora_info *out, translora_error **error);

    /* [any-thread] The table of a capability by id, one of those below, or NULL where this library does not have it. Lives as long
     * as the library is loaded and serves every instance. */
    const void *(*capability)(translora_text id);
} translora_entry;

/* [any-thread] The entry for this major version, or NULL where the library does not speak it. Always the same pointer. */
const translora_entry *translora_get_entry(uint32_t abi_major);

/* ---- translora.echo/1: a mirror for testing hosts ------------------------------------------------------------------------- */

#define TRANSLORA_ECHO_1 "translora.echo/1"

typedef struct translora_echo_1 {
    uint32_t struct_size;
    uint32_t reserved;

    /* [any-thread] Give the text back. */
    translora_status (*echo)(translora_instance *instance, translora_text text, translora_string **out, translora_error **error);

    /* [any-thread] Fail with this status (not TRANSLORA_OK) and this message. */
    translora_status (*fail)(translora_instance *instance, translora_status status, translora_text message, translora_error **error);

    /* [any-thread] Panic inside the library, to see that the instance is poisoned and the process is not. */
    translora_status (*panic)(translora_instance *instance, translora_error **error);
} translora_echo_1;

/* ---- translora.inspect/1: what a file is --------------------------------------------------------------------------------- */

#define TRANSLORA_INSPECT_1 "translora.inspect/1"

typedef struct translora_inspect_1 {
    uint32_t struct_size;
    uint32_t reserved;

    /* [background] Describe an adapter, kit or model file as one JSON object, the one that `translora inspect --json` prints. */
    translora_status (*inspect)(translora_instance *instance, translora_text path, translora_string **out, translora_error **error);
} translora_inspect_1;

/* ---- translora.jobs/1: transfers beside the host's own work; since 1.1 --------------------------------------------------------- */

#define TRANSLORA_JOBS_1 "translora.jobs/1"

/* A job of one instance: a number that is never 0 and never used twice in a process, so a stale one is TRANSLORA_BAD_HANDLE. */
typedef uint64_t translora_job;

#define TRANSLORA_JOB_WAITING 0
#define TRANSLORA_JOB_RUNNING 1
#define TRANSLORA_JOB_DONE 2 /* it has a report, whose verdict says whether the adapter was accepted */
#define TRANSLORA_JOB_FAILED 3
#define TRANSLORA_JOB_CANCELLED 4

/* How far a job is. The caller sets struct_size; fields beyond it are not written. */
typedef struct translora_job_progress {
    uint32_t struct_size;
    int32_t state;       /* TRANSLORA_JOB_ */
    uint32_t ahead;      /* jobs that come before it */
    uint32_t process;    /* process id of the worker while it runs in one, else 0 */
    uint64_t done;       /* of total, in this stage; both 0 where that is not known */
    uint64_t total;
    uint64_t last_event; /* number of its newest event, 0 before the first */
    translora_text stage; /* kit, open, generate, filter, label, distill, evaluate, publish; empty before the first. Lives as long as the library */
} translora_job_progress;

/* One job of an instance runs at a time, the others wait. Each runs in a child process, `translora worker`, with less priority than
 * the host; if that process dies or hangs, the job fails with a sentence, and the host goes on. */
typedef struct translora_jobs_1 {
    uint32_t struct_size;
    uint32_t reserved;

    /* [any-thread] Say how jobs run, while no job is known; what is left out stays as it is (docs/reference/c-abi.md has the names). */
    translora_status (*configure)(translora_instance *instance, translora_text json, translora_error **error);

    /* [any-thread] Put a transfer into the queue: a JSON object with the flags of `translora transfer` (docs/reference/transfer.md). Files are looked
     * at when the job runs. */
    translora_status (*start)(translora_instance *instance, translora_text request, translora_job *out, translora_error **error);

    /* [any-thread] How far a job is. */
    translora_status (*poll)(translora_instance *instance, translora_job job, translora_job_progress *out, translora_error **error);

    /* [background] Wait until the job ends or this many milliseconds are over; then as poll. */
    translora_status (*wait)(translora_instance *instance, translora_job job, uint32_t timeout_ms, translora_job_progress *out, translora_error **error);

    /* [background] The events behind number `after`, as a JSON array, oldest first. Where there are none yet, wait for one, but no longer
     * than this many milliseconds (0 does not wait) and not beyond the end of the job. */
    translora_status (*events)(translora_instance *instance, translora_job job, uint64_t after, uint32_t timeout_ms, translora_string **out, translora_error **error);

    /* [any-thread] All that is known of a job, as a JSON object; of every job, as an array. */
    translora_status (*status)(translora_instance *instance, translora_job job, translora_string **out, translora_error **error);
    translora_status (*list)(translora_instance *instance, translora_string **out, translora_error **error);

    /* [any-thread] Ask a job to stop. It is over within two seconds where it runs in a process; the journal is kept. */
    translora_status (*cancel)(translora_instance *instance, translora_job job, translora_error **error);

    /* [any-thread] The report of a job that is done: the object that `translora transfer --json` prints. Of one that failed, its error; of one
     * that has not ended, TRANSLORA_NOT_NOW. */
    translora_status (*report)(translora_instance *instance, translora_job job, translora_string **out, translora_error **error);

    /* [any-thread] Forget a job; one that has not ended is cancelled first. Its number is stale from then on. */
    translora_status (*free)(translora_instance *instance, translora_job job, translora_error **error);
} translora_jobs_1;

/* ---- translora.adapters/1: what fits the model that is served; since 1.1 ------------------------------------------------------- */

#define TRANSLORA_ADAPTERS_1 "translora.adapters/1"

typedef struct translora_adapters_1 {
    uint32_t struct_size;
    uint32_t reserved;

    /* [background] Name the base model that the host serves. Its header and hash are read; adapters are checked against it from then on. */
    translora_status (*base)(translora_instance *instance, translora_text path, translora_error **error);

    /* [background] Check that an adapter fits the base: every matrix by name and shape, and every number finite. Describes it as a JSON
     * object, which also says whether it was trained on this very file. */
    translora_status (*check)(translora_instance *instance, translora_text path, translora_string **out, translora_error **error);

    /* [any-thread] What each name answers with, as a JSON array: name, generation, path and hash, and the one before it. */
    translora_status (*list)(translora_instance *instance, translora_string **out, translora_error **error);
} translora_adapters_1;

/* ---- translora.hotswap/1: exchange an adapter while the host serves; since 1.1 --------------------------------------------------- */

#define TRANSLORA_HOTSWAP_1 "translora.hotswap/1"

/* A prepared exchange: a number as a job's is. */
typedef uint64_t translora_swap;

/* In two phases: prepare does all that takes long, commit what must happen between two decodes. Both this generation and the one before it
 * stay loaded, so that rollback needs no file. Needs adapter_load, adapter_set and adapter_free in the host's table. */
typedef struct translora_hotswap_1 {
    uint32_t struct_size;
    uint32_t reserved;

    /* [background] Read and check an adapter that name is to answer with, so that commit finds the file in memory. */
    translora_status (*prepare)(translora_instance *instance, translora_text name, translora_text path, translora_swap *out, translora_error **error);

    /* [host-decode-thread] Load the adapter and let name answer with it. Where that fails everything stays as it was. The swap is spent. */
    translora_status (*commit)(translora_instance *instance, translora_swap swap, uint64_t *generation, translora_error **error);

    /* [any-thread] Give a prepared exchange up. */
    translora_status (*discard)(translora_instance *instance, translora_swap swap, translora_error **error);

    /* [host-decode-thread] Let name answer with what it had before, under the number that it had. */
    translora_status (*rollback)(translora_instance *instance, translora_text name, uint64_t *generation, translora_error **error);

    /* [host-decode-thread] Let name answer with the bare base, which is generation 0, and free both generations. */
    translora_status (*unload)(translora_instance *instance, translora_text name, uint64_t *generation, translora_error **error);
} translora_hotswap_1;

#ifdef __cplusplus
}
#endif

#endif
