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
 *   ownership  Who allocates frees: what a call hands out carries its own release function.
 *   outputs    Come last, and are written on success only. An error is written on failure only, and only where asked for.
 *   status     Every fallible call returns one of the codes below; codes are never reused. New codes may appear: treat an unknown
 *              one as TRANSLORA_INTERNAL.
 *   panics     None leaves the library. A call that panics answers TRANSLORA_PANICKED and poisons its instance: later calls on it
 *              answer TRANSLORA_POISONED, except info and destroy. Other instances and the process go on.
 *   threads    Each function says where it may be called. [any-thread]: from any thread, at the same time as any other call.
 *              [background]: as any-thread, but it may take long and read files, so never from a thread that decodes.
 */
#ifndef TRANSLORA_H
#define TRANSLORA_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TRANSLORA_ABI_MAJOR 1u
#define TRANSLORA_ABI_MINOR 0u

/* The most bytes that a text argument may have. */
#define TRANSLORA_TEXT_BYTES_MAX 67108864u

typedef int32_t translora_status;

#define TRANSLORA_OK 0
#define TRANSLORA_INVALID_ARGUMENT 1 /* a null or misaligned pointer, a struct_size too small, a text that is not UTF-8 */
#define TRANSLORA_BAD_HANDLE 2       /* not an instance of this library, or one that was destroyed */
#define TRANSLORA_POISONED 3         /* an earlier call on this instance panicked */
#define TRANSLORA_PANICKED 4         /* this call panicked; its instance is poisoned now */
#define TRANSLORA_CANCELLED 5        /* stopped because it was asked to */
#define TRANSLORA_INPUT 6            /* a file or value of the caller is at fault; the message names it */
#define TRANSLORA_MACHINE 7          /* memory, disk or device */
#define TRANSLORA_INTERNAL 8         /* a bug in this library */

#define TRANSLORA_LOG_ERROR 1
#define TRANSLORA_LOG_WARNING 2
#define TRANSLORA_LOG_INFO 3

/* A borrowed text. data may be NULL when length is 0. Never grows, so it has no struct_size. */
typedef struct translora_text {
    const char *data;
    uint64_t length;
} translora_text;

/* A text that the library made. Valid until its release is called, once, with its own address [any-thread]. */
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

/* What the host offers. Copied by create; context and the functions must stay valid until destroy has returned and every call
 * that was under way on the instance has returned too. */
typedef struct translora_host {
    uint32_t struct_size;
    uint32_t reserved;
    void *context;
    /* Takes a line for the host's log; may be NULL. Must not unwind. Called on the thread of the call that has something to say. */
    void (*log)(void *context, int32_t level, translora_text line);
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

    /* [any-thread] End an instance. A call under way on another thread finishes first in its own time; it stays valid for it. */
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

#ifdef __cplusplus
}
#endif

#endif
