/* Plugins that break the law, one for each value of WRONG. C11 and C++17 (to unwind). */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "translora.h"

#define SIZE 1    /* the entry says that it is smaller than its first version */
#define CRASH 2   /* info reads from nowhere */
#define HANG 3    /* info never returns */
#define LEAVE 4   /* info ends the process as if all were well */
#define UNWIND 5  /* info throws */
#define LIE 6     /* everything answers well, whatever the call */
#define MISSING 7 /* the entry has no info */

#ifdef __cplusplus
extern "C" {
#endif

static translora_status create(const translora_host *host, translora_instance **out, translora_error **error) {
    (void)host; (void)error;
    if (out) *out = (translora_instance *)(uintptr_t)1;
    return TRANSLORA_OK;
}

static translora_status destroy(translora_instance *instance, translora_error **error) {
    (void)instance; (void)error;
    return TRANSLORA_OK;
}

static translora_status info(translora_instance *instance, translora_info *out, translora_error **error) {
    (void)instance; (void)error;
#if WRONG == CRASH
    volatile int *nowhere = NULL;
    *nowhere = 1;
#elif WRONG == HANG
    for (;;) sleep(1);
#elif WRONG == LEAVE
    _exit(0);
#elif WRONG == UNWIND
    throw 1;
#endif
    if (out) {
        out->abi_major = TRANSLORA_ABI_MAJOR;
        out->poisoned = 0;
        out->version.data = "1";
        out->version.length = 1;
    }
    return TRANSLORA_OK;
}

static const void *capability(translora_text id) { (void)id; return NULL; }

static const translora_entry table = {
    WRONG == SIZE ? 20 : sizeof(translora_entry), TRANSLORA_ABI_MAJOR, TRANSLORA_ABI_MINOR, 0,
    create, destroy, WRONG == MISSING ? NULL : info, capability,
};

const translora_entry *translora_get_entry(uint32_t abi_major) { return abi_major == TRANSLORA_ABI_MAJOR ? &table : NULL; }

#ifdef __cplusplus
}
#endif
