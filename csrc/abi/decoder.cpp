// decoder.cpp: the decoder at the C ABI.
#include "decoder/decoder.hpp"

#include <string>

#include "ssm/ssm.hpp"

using namespace refgss;
using namespace refgss::decoding;

/// The handle of the ABI.
struct refgss_decoder : decoder {
    using decoder::decoder;
};

namespace {

/// Tokens (B,L) as a view, for what is asked of every argument; of the size of binary64.
refgss_array as_array(const int64_t* tokens, int64_t batch, int64_t length) {
    if (length < 0) throw error{REFGSS_ERROR_VALUE, "length must not be negative"};
    return {const_cast<int64_t*>(tokens), REFGSS_F64, 2, {batch, length}, {length, 1}};
}

/// Throws unless the tokens are there, and the output is their and its own only user.
void check_read(const refgss_decoder& d, const int64_t* tokens, const int64_t* targets, int64_t length,
                const refgss_array* output, const char* name) {
    const refgss_array t = as_array(tokens, d.batch(), length);
    const refgss_array u = as_array(targets ? targets : tokens, d.batch(), length);
    check_array(&t, "tokens", 2), check_array(&u, "targets", 2);
    check_outputs({{output, name}}, {{&t, "tokens"}, {&u, "targets"}});
}

refgss_saved saved_of(int32_t what) {
    if (what != REFGSS_STATE && what != REFGSS_SNAPSHOT)
        throw error{REFGSS_ERROR_VALUE, "what must be REFGSS_STATE or REFGSS_SNAPSHOT"};
    return static_cast<refgss_saved>(what);
}

/// Axis n of the pending inputs, whose length a restored snapshot tells.
constexpr int64_t any_length = -1;

/// Throws unless the arrays have the shapes of these parts; returns the common length of the axes that
/// may have any.
int64_t check_parts(const std::vector<decoder::named_part>& parts, const refgss_array* arrays,
                    int64_t count, std::vector<named_array>& named) {
    if (count != static_cast<int64_t>(parts.size()))
        throw error{REFGSS_ERROR_VALUE, "there must be " + std::to_string(parts.size()) + " arrays, not " +
                                            std::to_string(count) + ": see refgss_decoder_layout"};
    need(arrays, "arrays");
    int64_t free = any_length;
    for (int64_t i = 0; i < count; ++i) {
        const auto& [layer, part] = parts[i];
        const std::string name = "layers." + std::to_string(layer) + "." + part.name;
        check_array(&arrays[i], name.c_str(), static_cast<int>(part.shape.size()));
        if (arrays[i].dtype != REFGSS_F32) throw error{REFGSS_ERROR_TYPE, name + " must be float32"};
        for (size_t axis = 0; axis < part.shape.size(); ++axis) {
            int64_t wanted = part.shape[axis];
            const int64_t length = arrays[i].shape[axis];
            if (wanted == any_length) wanted = free = free == any_length ? length : free;
            check_axis(name.c_str(), ("axis " + std::to_string(axis)).c_str(), length, wanted);
        }
        named.push_back({&arrays[i], name});
    }
    return free;
}

}  // namespace

int32_t refgss_decoder_new(const refgss_lm_params* params, int64_t batch, int64_t block,
                           refgss_decoder** decoder) {
    return guarded([&] {
        *need(decoder, "decoder") = nullptr;
        need(need(params, "params")->layers, "params->layers");
        if (batch < 0 || block < 1)
            throw error{REFGSS_ERROR_VALUE, "a decoder needs batch >= 0 and block >= 1"};
        auto made = std::make_unique<refgss_decoder>(std::make_shared<model>(*params, block), batch);
        *decoder = made.release();
    });
}

int32_t refgss_decoder_fork(const refgss_decoder* decoder, refgss_decoder** fork) {
    return alone_with(decoder, [&](const refgss_decoder& d) {
        *need(fork, "fork") = nullptr;
        *fork = new refgss_decoder(d);
    });
}

int32_t refgss_decoder_fresh(const refgss_decoder* decoder, int64_t batch, refgss_decoder** fresh) {
    return alone_with(decoder, [&](const refgss_decoder& d) {
        *need(fresh, "fresh") = nullptr;
        if (batch < 0) throw error{REFGSS_ERROR_VALUE, "a decoder needs batch >= 0"};
        *fresh = new refgss_decoder(d.weights(), batch);
    });
}

void refgss_decoder_free(refgss_decoder* decoder) { delete decoder; }

int32_t refgss_decoder_step(refgss_decoder* decoder, const int64_t* tokens,
                            const refgss_array* logits) {
    return alone_with(decoder, [&](refgss_decoder& d) {
        auto out = shaped<float, 2>(logits, "logits", d.batch(), d.of().vocabulary);
        check_read(d, tokens, nullptr, 1, logits, "logits");
        d.step(tokens, out);
    });
}

int32_t refgss_decoder_prefill(refgss_decoder* decoder, const int64_t* tokens, int64_t length,
                               const refgss_array* logits) {
    return alone_with(decoder, [&](refgss_decoder& d) {
        const int64_t B = d.batch(), V = d.of().vocabulary;
        check_array(logits, "logits", need(logits, "logits")->rank == 3 ? 3 : 2);
        check_read(d, tokens, nullptr, length, logits, "logits");
        if (logits->rank == 3)
            return d.prefill(tokens, length, shaped<float, 3>(logits, "logits", B, length, V));
        if (length < 1)
            throw error{REFGSS_ERROR_VALUE,
                        "there are no tokens, and so no last one: pass at least one"};
        auto last = shaped<float, 2>(logits, "logits", B, V);
        d.prefill(tokens, length, {last.data, {B, 1, V}, {last.stride[0], 0, last.stride[1]}});
    });
}

int32_t refgss_decoder_loss(refgss_decoder* decoder, const int64_t* tokens, const int64_t* targets,
                            int64_t length, const refgss_array* loss) {
    return alone_with(decoder, [&](refgss_decoder& d) {
        auto out = shaped<double, 2>(loss, "loss", d.batch(), length);
        if (out.size() > 0) need(targets, "targets");
        check_read(d, tokens, targets, length, loss, "loss");
        d.loss(tokens, targets, length, out);
    });
}

int64_t refgss_decoder_pending(const refgss_decoder* decoder) {
    return decoder ? decoder->pending() : 0;
}

int64_t refgss_decoder_position(const refgss_decoder* decoder) {
    return decoder ? decoder->position() : 0;
}

int32_t refgss_decoder_layout(const refgss_decoder* decoder, int32_t what, refgss_array* arrays,
                              int64_t room, int64_t* count) {
    return alone_with(decoder, [&](const refgss_decoder& d) {
        const auto parts = d.parts(saved_of(what), d.pending());
        *need(count, "count") = static_cast<int64_t>(parts.size());
        if (room > 0) need(arrays, "arrays");
        for (int64_t i = 0; i < std::min(room, *count); ++i) {
            const std::vector<int64_t>& shape = parts[i].what.shape;
            refgss_array a{nullptr, REFGSS_F32, static_cast<int32_t>(shape.size()), {}, {}};
            for (int64_t axis = a.rank - 1, stride = 1; axis >= 0; stride *= shape[axis--])
                a.shape[axis] = shape[axis], a.stride[axis] = stride;
            arrays[i] = a;
        }
    });
}

int32_t refgss_decoder_save(const refgss_decoder* decoder, int32_t what, const refgss_array* arrays,
                            int64_t count) {
    return alone_with(decoder, [&](const refgss_decoder& d) {
        std::vector<named_array> named;
        check_parts(d.parts(saved_of(what), d.pending()), arrays, count, named);
        check_outputs(named, {});
        d.save(saved_of(what), arrays);
    });
}

int32_t refgss_decoder_restore(refgss_decoder* decoder, int32_t what, const refgss_array* arrays,
                               int64_t count, int64_t position) {
    return alone_with(decoder, [&](refgss_decoder& d) {
        std::vector<named_array> named;
        const int64_t given = check_parts(d.parts(saved_of(what), any_length), arrays, count, named);
        const int64_t pending = std::max<int64_t>(given, 0);
        if (pending >= d.of().block)
            throw error{REFGSS_ERROR_VALUE, "pending has more steps than the decoder's block: use the "
                                            "block with which it was saved"};
        if (position < 0 || position > d.of().span)
            throw error{REFGSS_ERROR_VALUE,
                        "position must not be negative, nor beyond dss-softmax's length"};
        d.restore(saved_of(what), arrays, pending, position);
    });
}
