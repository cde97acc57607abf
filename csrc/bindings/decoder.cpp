// decoder.cpp: the decoder on NumPy arrays.
#include <deque>
#include <optional>

#include "bindings/numpy.hpp"

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

class decoder {
public:
    /// layer: () for GSS, or the form of DSS (method, pairs, eps, length).
    decoder(const py::dict& params, int64_t depth, const py::tuple& form, bool imag_is_exp, double eps,
            int64_t batch, int64_t block) {
        model_arrays p(params);
        std::deque<refgss_gss_layer_params> gss;
        std::deque<refgss_dss_layer_params> dss;
        std::vector<refgss_lm_layer> layers;
        for (int64_t i = 0; i < depth; ++i) {
            auto at = [&](const char* name) { return p["layers." + std::to_string(i) + "." + name]; };
            refgss_lm_layer layer{nullptr, nullptr, at("w_v.scale"), at("w_u.scale"),
                                  at("w_uc.scale"), at("w_o.scale")};
            if (form.empty()) {
                gss.push_back({at("norm.weight"), at("norm.bias"), at("w_v"), at("w_u"),
                               at("ssm.norm.weight"), at("ssm.norm.bias"), at("ssm.a"), at("ssm.b"),
                               at("ssm.c"), at("ssm.d"), at("w_uc"), at("w_o"), at("b_o"), eps,
                               imag_is_exp});
                layer.gss = &gss.back();
            } else {
                refgss_form f{form[0].cast<int32_t>(), form[1].cast<bool>(), form[2].cast<double>(),
                              form[3].cast<int64_t>()};
                dss.push_back({at("norm.weight"), at("norm.bias"), at("ssm.a"), at("ssm.b"),
                               at("ssm.c"), at("ssm.d"), at("ssm.log_delta"), at("w_o"), at("b_o"),
                               f, eps, imag_is_exp});
                layer.dss = &dss.back();
            }
            layers.push_back(layer);
        }
        refgss_lm_params all{p["embedding.weight"], p["embedding.weight.scale"], layers.data(), depth,
                             p["norm.weight"], p["norm.bias"], eps, p["head.weight"],
                             p["head.weight.scale"]};
        call([&] { return refgss_decoder_new(&all, batch, block, &handle_); });
        batch_ = batch, depth_ = depth;
        vocabulary_ = all.embedding->shape[0];
        const refgss_array* c = p["layers.0.ssm.c"];
        channels_ = c->shape[0], states_ = c->shape[1];
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
    py::array state() const {
        py::array x = fresh(REFGSS_F32, {depth_ * batch_, channels_, states_}, true);
        refgss_array ax = view(x, "state");
        call([&] { return refgss_decoder_state(handle_, &ax); });
        return x;
    }
    py::tuple snapshot() const {
        py::array x = fresh(REFGSS_F32, {depth_ * batch_, channels_, states_}, true);
        py::array u = fresh(REFGSS_F32, {depth_ * batch_, pending(), channels_});
        refgss_array ax = view(x, "state"), au = view(u, "pending");
        call([&] { return refgss_decoder_snapshot(handle_, &ax, &au); });
        return py::make_tuple(x, u);
    }
    void restore(const py::object& state, const py::object& pending, int64_t position) {
        refgss_array ax = view(state, "state"), au{};
        if (!pending.is_none()) au = view(pending, "pending");
        const refgss_array* given = pending.is_none() ? nullptr : &au;
        call([&] { return refgss_decoder_restore(handle_, &ax, given, position); });
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
    py::ssize_t batch_, depth_, vocabulary_, channels_, states_;
};

}  // namespace

void bind_decoder(py::module_& module) {
    py::class_<decoder>(module, "Decoder")
        .def(py::init<const py::dict&, int64_t, const py::tuple&, bool, double, int64_t, int64_t>())
        .def("fork", &decoder::fork)
        .def("fresh", &decoder::fresh_of)
        .def("step", &decoder::step)
        .def("prefill", &decoder::prefill)
        .def("loss", &decoder::loss)
        .def("state", &decoder::state)
        .def("snapshot", &decoder::snapshot)
        .def("restore", &decoder::restore)
        .def("pending", &decoder::pending)
        .def("position", &decoder::position)
        .def("place", &decoder::place);
}
