// Prints what Metal's own table has: the mark below is replaced by the functions of the vendored ggml-metal that make it.
// In: one line of numbers for each operation, as tests/metal.rs writes them. Out: 1 or 0 for each.
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "ggml-metal/ggml-metal-device.h"
#include "ggml-metal/ggml-metal-common.h"
#include "ggml-impl.h"

#define OP_LIGHTNING_INDEXER_DK 128

struct ggml_metal_device {
    struct ggml_metal_device_props props;
};

//FUNCTIONS//

static bool read(ggml_tensor & tensor) {
    memset(&tensor, 0, sizeof tensor);
    int type;
    if (scanf("%d", &type) != 1) {
        return false;
    }
    tensor.type = (ggml_type) type;
    for (auto & size : tensor.ne) {
        scanf("%ld", &size);
    }
    for (auto & stride : tensor.nb) {
        scanf("%zu", &stride);
    }
    return true;
}

int main() {
    // An M1: the oldest that ggml calls supported. It has no bf16.
    ggml_metal_device device = {};
    device.props.has_simdgroup_reduction = true;
    device.props.has_simdgroup_mm = true;
    device.props.max_theadgroup_memory_size = 32768;
    static ggml_tensor result, sources[10];
    while (read(result)) {
        int op, count;
        scanf("%d", &op);
        result.op = (ggml_op) op;
        for (auto & parameter : result.op_params) {
            scanf("%d", &parameter);
        }
        scanf("%d", &count);
        for (int i = 0; i < count; i++) {
            int there;
            scanf("%d", &there);
            if (there) {
                read(sources[i]);
                result.src[i] = &sources[i];
            }
        }
        printf("%d\n", ggml_metal_device_supports_op(&device, &result) ? 1 : 0);
    }
}
