// decoder.cpp: the decoder on NumPy arrays.
#include <deque>
#include <map>
#include <memory>
#include <optional>

#include "bindings/params.hpp"

namespace {

using lengths = std::vector<py::ssize_t>;

/// The arrays of a model by name; what is absent is NULL.
class model_arrays {
public:
    explicit model_arrays(const py::dict& params) : params_(params) {}

    const refgss_array* operator[](const std::string& name) {
        py::str key(name);
        if (!params_.contains(key)) return nullptr;
        py::object value = params_[key];
        views_.push_back(weights(value, name));
        return &views_.back();
    }

private:
    /// As `view`, and uint16 as bf16, and int8.
    static refgss_array weights(const py::object& object, const std::string& name) {
        if (!py::isinstance<py::array>(object)) return view(object, name.c_str());
        auto array = py::reinterpret_borrow<py::array>(object);
        const char kind = array.dtype().kind();
        const auto item = array.itemsize();
        const bool half = kind == 'u' && item == 2, byte = kind == 'i' && item == 1;
        if (!half && !byte) return view(object, name.c_str());
        refgss_array a{};
        a.data = const_cast<void*>(array.data());
        a.dtype = half ? REFGSS_BF16 : REFGSS_I8;
        a.rank = static_cast<int32_t>(array.ndim());
        if (a.rank > REFGSS_MAX_RANK) throw py::value_error(name + " has too many axes");
        for (int i = 0; i < a.rank; ++i) {
            if (array.shape(i) > 1 && array.strides(i) % item)
                throw py::value_error(name + " has strides that are no multiple of its elements");
            a.shape[i] = array.shape(i), a.stride[i] = array.strides(i) / item;
        }
        return a;
    }

    const py::dict& params_;
    std::deque<refgss_array> views_;  // which stay where they are
};

using token_array = py::array_t<int64_t, py::array::c_style>;

/// A layer at the ABI, and what it points to.
struct owning_layer {
    refgss_lm_layer layer;
    std::shared_ptr<const void> params, scales;

    template <class Params, class Scales>
    owning_layer(refgss_layer_kind kind, const Params& p, const Scales& s)
        : params(std::make_shared<Params>(p)), scales(std::make_shared<Scales>(s)) {
        layer = {kind, params.get(), scales.get()};
    }
};

/// The arrays of one layer by its own names.
struct layer_arrays {
    model_arrays& all;
    std::string prefix;
    const refgss_array* operator[](const char* name) const { return all[prefix + name]; }
};

// `options` of a layer as refgss.native.decoder.OPTIONS has them: (kind, ...)

owning_layer gss_layer(const layer_arrays& p, const py::tuple& options) {
    return {REFGSS_LAYER_GSS, gss_params(p, options[1].cast<bool>(), options[2].cast<double>()),
            refgss_gss_layer_scales{p["w_v.scale"], p["w_u.scale"], p["w_uc.scale"], p["w_o.scale"]}};
}

owning_layer dss_layer(const layer_arrays& p, const py::tuple& options) {
    return {REFGSS_LAYER_DSS,
            dss_params(p, options[1].cast<bool>(), options[2].cast<double>(),
                       form_of(options[3].cast<py::tuple>())),
            refgss_dss_layer_scales{p["w_o.scale"]}};
}

/// (.., window, heads, kv_heads, position, mlp, rope_base, eps)
owning_layer transformer_layer(const layer_arrays& p, const py::tuple& options) {
    const auto window = options[1].cast<py::tuple>();
    const auto position = options[4].cast<int32_t>(), mlp = options[5].cast<int32_t>();
    const char* table = position == REFGSS_POSITION_T5 ? "position.table" : "position.weight";
    return {REFGSS_LAYER_TRANSFORMER,
            refgss_transformer_layer_params{
                p["norm1.weight"], p["norm1.bias"], p["w_q"], p["w_k"], p["w_v"], p["w_o"], p["b_q"],
                p["b_k"], p["b_v"], p["b_o"], p[table], p["norm2.weight"], p["norm2.bias"], p["w_1"],
                p["w_2"], p["w_3"], p["b_1"], p["b_2"], p["b_3"],
                {window[0].cast<int64_t>(), window[1].cast<int32_t>(), window[2].cast<bool>()},
                options[2].cast<int64_t>(), options[3].cast<int64_t>(), position, mlp,
                options[6].cast<double>(), options[7].cast<double>()},
            refgss_transformer_layer_scales{p["w_q.scale"], p["w_k.scale"], p["w_v.scale"],
                                            p["w_o.scale"], p["w_1.scale"], p["w_2.scale"],
                                            p["w_3.scale"]}};
}

/// Of the tokens, or with the prefix "state." of the state.
refgss_block_recurrent_part recurrent_part(const layer_arrays& p) {
    return {p["norm1.weight"], p["norm2.weight"], p["w_q"], p["w_k"], p["w_v"], p["w_q2"], p["scale"],
            p["scale2"], p["w_o"], p["w_1"], p["w_2"], p["w_3"]};
}
refgss_block_recurrent_part_scales recurrent_scales(const layer_arrays& p) {
    return {p["w_q.scale"], p["w_k.scale"], p["w_v.scale"], p["w_q2.scale"],
            p["w_o.scale"], p["w_1.scale"], p["w_2.scale"], p["w_3.scale"]};
}
refgss_block_recurrent_gate recurrent_gate(const layer_arrays& p) {
    return {p["w_f"], p["b_f"], p["w_i"], p["b_i"]};
}

/// (.., heads, window, gate, update, mlp, eps)
owning_layer block_recurrent_layer(const layer_arrays& p, const py::tuple& options) {
    const layer_arrays state{p.all, p.prefix + "state."}, gate1{p.all, p.prefix + "state.gate1."},
        gate2{p.all, p.prefix + "state.gate2."};
    return {REFGSS_LAYER_BLOCK_RECURRENT,
            refgss_block_recurrent_layer_params{
                recurrent_part(p), recurrent_part(state), p["position.table"], p["state.initial"],
                p["state.ids"], recurrent_gate(gate1), recurrent_gate(gate2), options[1].cast<int64_t>(),
                options[2].cast<int64_t>(), options[3].cast<int32_t>(), options[4].cast<int32_t>(),
                options[5].cast<int32_t>(), options[6].cast<double>()},
            refgss_block_recurrent_layer_scales{recurrent_scales(p), recurrent_scales(state),
                                                gate1["w_f.scale"], gate1["w_i.scale"],
                                                gate2["w_f.scale"], gate2["w_i.scale"]}};
}

owning_layer make_layer(const layer_arrays& p, const py::tuple& options) {
    static const std::map<std::string, owning_layer (*)(const layer_arrays&, const py::tuple&)> makers{
        {"gss", gss_layer}, {"dss", dss_layer}, {"transformer", transformer_layer},
        {"recurrent", block_recurrent_layer}};
    return makers.at(options[0].cast<std::string>())(p, options);
}

class decoder {
public:
    decoder(const py::dict& params, const py::list& layers, double eps, int64_t batch, int64_t block) {
        model_arrays p(params);
        std::vector<owning_layer> made;
        std::vector<refgss_lm_layer> at_abi;
        for (const py::handle& options : layers) {
            const layer_arrays own{p, "layers." + std::to_string(made.size()) + "."};
            made.push_back(make_layer(own, options.cast<py::tuple>()));
            at_abi.push_back(made.back().layer);
        }
        refgss_lm_params all{p["embedding.weight"], p["embedding.weight.scale"], at_abi.data(),
                             static_cast<int64_t>(at_abi.size()), p["norm.weight"], p["norm.bias"], eps,
                             p["head.weight"], p["head.weight.scale"]};
        call([&] { return refgss_decoder_new(&all, batch, block, &handle_); });
        batch_ = batch, vocabulary_ = all.embedding->shape[0];
    }
    decoder(const decoder& other) { *this = other; }
    ~decoder() { refgss_decoder_free(handle_); }

    std::unique_ptr<decoder> fork() const {
        std::unique_ptr<decoder> made(new decoder(*this));
        made->handle_ = nullptr;
        call([&] { return refgss_decoder_fork(handle_, &made->handle_); });
        return made;
    }
    std::unique_ptr<decoder> fresh_of(int64_t batch) const {
        std::unique_ptr<decoder> made(new decoder(*this));
        made->handle_ = nullptr, made->batch_ = batch, made->last_.reset();
        call([&] { return refgss_decoder_fresh(handle_, batch, &made->handle_); });
        return made;
    }
    py::array step(const token_array& tokens) {
        py::array y = fresh(REFGSS_F32, {batch_, vocabulary_});
        refgss_array ay = view(y, "logits");
        call([&] { return refgss_decoder_step(handle_, tokens.data(), &ay); });
        return arrived(y);
    }
    py::array prefill(const token_array& tokens, bool all) {
        const py::ssize_t length = tokens.shape(1);
        py::array y = fresh(REFGSS_F32, all ? lengths{batch_, length, vocabulary_}
                                            : lengths{batch_, vocabulary_});
        refgss_array ay = view(y, "logits");
        call([&] { return refgss_decoder_prefill(handle_, tokens.data(), length, &ay); });
        return all ? y : arrived(y);
    }
    py::array loss(const token_array& tokens, const token_array& targets) {
        const py::ssize_t length = tokens.shape(1);
        py::array y = fresh(REFGSS_F64, {batch_, length});
        refgss_array ay = view(y, "loss");
        call([&] {
            return refgss_decoder_loss(handle_, tokens.data(), targets.data(), length, &ay);
        });
        return y;
    }
    /// The arrays of a state or a snapshot, those of the first layer first.
    py::list save(int32_t what) const {
        int64_t count;
        call([&] { return refgss_decoder_layout(handle_, what, nullptr, 0, &count); });
        std::vector<refgss_array> arrays(count);
        call([&] { return refgss_decoder_layout(handle_, what, arrays.data(), count, &count); });
        py::list saved;
        for (refgss_array& a : arrays) {
            saved.append(fresh(a.dtype, shape_of(a)));
            a = view(saved[saved.size() - 1], "saved");
        }
        call([&] { return refgss_decoder_save(handle_, what, arrays.data(), count); });
        return saved;
    }
    void restore(int32_t what, const py::list& saved, int64_t position) {
        std::vector<refgss_array> arrays;
        for (const py::handle& a : saved)
            arrays.push_back(view(py::reinterpret_borrow<py::object>(a), "saved"));
        const auto count = static_cast<int64_t>(arrays.size());
        call([&] { return refgss_decoder_restore(handle_, what, arrays.data(), count, position); });
    }
    /// The position, and the logits that the last step or prefill returned there, or None: of one moment,
    /// whatever happens to the result of that call on its way through Python.
    py::tuple place() const { return py::make_tuple(position(), last_ ? *last_ : py::none()); }
    py::ssize_t pending() const { return refgss_decoder_pending(handle_); }
    int64_t position() const { return refgss_decoder_position(handle_); }

private:
    decoder& operator=(const decoder&) = default;

    py::array arrived(const py::array& logits) {
        last_ = logits;
        return logits;
    }

    refgss_decoder* handle_ = nullptr;
    std::optional<py::object> last_;
    py::ssize_t batch_, vocabulary_;
};

}  // namespace

void bind_decoder(py::module_& module) {
    module.attr("STATE") = static_cast<int>(REFGSS_STATE);
    module.attr("SNAPSHOT") = static_cast<int>(REFGSS_SNAPSHOT);
    py::class_<decoder>(module, "Decoder")
        .def(py::init<const py::dict&, const py::list&, double, int64_t, int64_t>())
        .def("fork", &decoder::fork)
        .def("fresh", &decoder::fresh_of)
        .def("step", &decoder::step)
        .def("prefill", &decoder::prefill)
        .def("loss", &decoder::loss)
        .def("save", &decoder::save)
        .def("restore", &decoder::restore)
        .def("pending", &decoder::pending)
        .def("position", &decoder::position)
        .def("place", &decoder::place);
}
