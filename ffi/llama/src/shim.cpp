// What Rust cannot call directly: functions with C++ linkage, and functions that may throw. Every entry catches everything and
// returns a value that no success has.

#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "ggml-backend.h"
#include "ggml.h"
#include "gguf.h"
#include "llama.h"

// Declared in llama.cpp's staging header src/llama-ext.h, exported by libllama.
struct ggml_cgraph * llama_graph_reserve(struct llama_context * ctx, uint32_t n_tokens, uint32_t n_seqs, uint32_t n_outputs);
// Declared in src/llama-model.h.
const std::vector<std::pair<std::string, struct ggml_tensor *>> & llama_internal_get_tensor_map(const struct llama_model * model);

namespace {

void say(char * reason, size_t size, const char * what) {
    if (reason != nullptr && size > 0) {
        std::snprintf(reason, size, "%s", what);
    }
}

template <typename F, typename R> R guarded(char * reason, size_t size, R failed, F && body) {
    try {
        return body();
    } catch (const std::exception & error) {
        say(reason, size, error.what());
    } catch (...) {
        say(reason, size, "unknown C++ exception");
    }
    return failed;
}

bool no_parameters(const struct ggml_tensor *, void *) {
    return false;
}

} // namespace

extern "C" {

struct ggml_cgraph * translora_graph_reserve(struct llama_context * ctx, uint32_t n_tokens, uint32_t n_outputs, char * reason, size_t size) {
    return guarded(reason, size, (struct ggml_cgraph *) nullptr, [&] { return llama_graph_reserve(ctx, n_tokens, 1, n_outputs); });
}

// Switch a context to training mode: attention reads K and V of the current batch. No tensor becomes a parameter.
bool translora_training_mode(struct llama_context * ctx, struct llama_model * model, char * reason, size_t size) {
    return guarded(reason, size, false, [&] {
        struct llama_opt_params params = {};
        params.n_ctx_train    = 0;
        params.param_filter   = no_parameters;
        params.get_opt_pars   = ggml_opt_get_default_optimizer_params;
        params.optimizer_type = GGML_OPT_OPTIMIZER_TYPE_ADAMW;
        llama_opt_init(ctx, model, params);
        return true;
    });
}

// INT32_MIN marks an exception; otherwise llama_tokenize's own result.
int32_t translora_tokenize(const struct llama_vocab * vocab, const char * text, int32_t text_len, llama_token * tokens, int32_t n_max,
                           bool add_special, bool parse_special, char * reason, size_t size) {
    return guarded(reason, size, INT32_MIN, [&] { return llama_tokenize(vocab, text, text_len, tokens, n_max, add_special, parse_special); });
}

struct llama_sampler * translora_grammar(const struct llama_vocab * vocab, const char * text, const char * root, char * reason, size_t size) {
    return guarded(reason, size, (struct llama_sampler *) nullptr, [&] { return llama_sampler_init_grammar(vocab, text, root); });
}

bool translora_grammar_accept(struct llama_sampler * grammar, llama_token token, char * reason, size_t size) {
    return guarded(reason, size, false, [&] {
        llama_sampler_accept(grammar, token);
        return true;
    });
}

// INT32_MIN marks an exception; otherwise llama_decode's own result.
int32_t translora_decode(struct llama_context * ctx, struct llama_batch batch, char * reason, size_t size) {
    return guarded(reason, size, INT32_MIN, [&] { return llama_decode(ctx, batch); });
}

struct llama_context * translora_context(struct llama_model * model, struct llama_context_params params, char * reason, size_t size) {
    return guarded(reason, size, (struct llama_context *) nullptr, [&] { return llama_init_from_model(model, params); });
}

struct llama_adapter_lora * translora_adapter(struct llama_model * model, const char * path, char * reason, size_t size) {
    return guarded(reason, size, (struct llama_adapter_lora *) nullptr, [&] { return llama_adapter_lora_init(model, path); });
}

// A weight by its name; of a matrix that lies on the CPU and on a device, the one on the device. Null where there is none.
struct ggml_tensor * translora_tensor(struct llama_model * model, const char * name) {
    return guarded(nullptr, 0, (struct ggml_tensor *) nullptr, [&] {
        struct ggml_tensor * found = nullptr;
        for (const auto & [known, tensor] : llama_internal_get_tensor_map(model)) {
            if (known == name && (found == nullptr || (tensor->buffer != nullptr && !ggml_backend_buffer_is_host(tensor->buffer)))) {
                found = tensor;
            }
        }
        return found;
    });
}

// Bytes of the weights that the host cannot touch.
size_t translora_device_bytes(struct llama_model * model) {
    return guarded(nullptr, 0, (size_t) 0, [&] {
        size_t bytes = 0;
        for (const auto & [name, tensor] : llama_internal_get_tensor_map(model)) {
            bytes += tensor->buffer == nullptr || ggml_backend_buffer_is_host(tensor->buffer) ? 0 : ggml_nbytes(tensor);
        }
        return bytes;
    });
}

uint32_t translora_quantize(const char * from, const char * to, const llama_model_quantize_params * params, char * reason, size_t size) {
    return guarded(reason, size, (uint32_t) 1, [&] { return llama_model_quantize(from, to, params); });
}

// A model of random weights from metadata alone, saved to a file.
bool translora_synthesize(const char * metadata, const char * out, llama_model_set_tensor_data_t fill, void * user, char * reason, size_t size) {
    return guarded(reason, size, false, [&] {
        struct gguf_init_params params = { /*.no_alloc =*/ true, /*.ctx =*/ nullptr };
        struct gguf_context *   gguf   = gguf_init_from_file(metadata, params);
        if (gguf == nullptr) {
            return false;
        }
        struct llama_model * model = nullptr;
        try {
            model = llama_model_init_from_user(gguf, fill, user, llama_model_default_params());
            if (model != nullptr) {
                llama_model_save_to_file(model, out);
            }
        } catch (...) {
            llama_model_free(model);
            gguf_free(gguf);
            throw;
        }
        const bool made = model != nullptr;
        llama_model_free(model);
        gguf_free(gguf);
        return made;
    });
}

} // extern "C"
