// block_recurrent.cpp: the ops of block-recurrent layers on NumPy arrays.
#include <optional>

#include "bindings/numpy.hpp"

namespace {

/// An output of the shape of what was given; NULL, and None, where that is absent.
class like {
public:
    explicit like(const in& given) {
        if (static_cast<const refgss_array*>(given)) made_.emplace(given->dtype, shape(given));
    }
    operator const refgss_array*() const { return made_ ? static_cast<const refgss_array*>(*made_) : nullptr; }
    py::object array() const { return made_ ? py::object(made_->array()) : py::none(); }

private:
    std::optional<out> made_;
};

py::array l2_normalize(object x_, double eps) {
    in x(x_, "x");
    out y(x->dtype, shape(x));
    call([&] { return refgss_l2_normalize(x, eps, y); });
    return y.array();
}

py::array l2_normalize_vjp(object x_, object dy_, double eps) {
    in x(x_, "x"), dy(dy_, "dy");
    out dx(x->dtype, shape(x));
    call([&] { return refgss_l2_normalize_vjp(x, dy, eps, dx); });
    return dx.array();
}

py::array gate(object s_, object z_, object f_, object i_, int32_t kind) {
    in s(s_, "s"), z(z_, "z"), f(f_, "f"), i(i_, "i");
    out y(s->dtype, shape(s));
    call([&] { return refgss_gate(s, z, f, i, kind, y); });
    return y.array();
}

py::tuple gate_vjp(object s_, object z_, object f_, object i_, object dout_, int32_t kind) {
    in s(s_, "s"), z(z_, "z"), f(f_, "f"), i(i_, "i"), dout(dout_, "dout");
    like ds(s), dz(z), df(f), di(i);
    call([&] { return refgss_gate_vjp(s, z, f, i, dout, kind, ds, dz, df, di); });
    return py::make_tuple(ds.array(), dz.array(), df.array(), di.array());
}

/// (B,W,H,D), the shape of the keys of a state.
lengths window_shape(const in& q, int64_t window) {
    return {q.axis(0), static_cast<py::ssize_t>(window), q.axis(2), q.axis(3)};
}

py::tuple window_attention(object q_, object k_, object v_, object bias_, object scale_, object state_k_,
                           object state_v_, int64_t window) {
    in q(q_, "q"), k(k_, "k"), v(v_, "v"), bias(bias_, "bias"), scale(scale_, "scale");
    in state_k(state_k_, "state k"), state_v(state_v_, "state v");
    out y(q->dtype, shape(q)), next_k(q->dtype, window_shape(q, window)),
        next_v(q->dtype, window_shape(q, window));
    call([&] {
        return refgss_window_attention(q, k, v, bias, scale, state_k, state_v, window, y, next_k, next_v);
    });
    return py::make_tuple(y.array(), next_k.array(), next_v.array());
}

py::tuple window_attention_vjp(object q_, object k_, object v_, object bias_, object scale_, object state_k_,
                               object state_v_, object dy_, object dstate_k_, object dstate_v_,
                               int64_t window) {
    in q(q_, "q"), k(k_, "k"), v(v_, "v"), bias(bias_, "bias"), scale(scale_, "scale"), dy(dy_, "dy");
    in state_k(state_k_, "state k"), state_v(state_v_, "state v");
    in dstate_k(dstate_k_, "dstate k"), dstate_v(dstate_v_, "dstate v");
    like dq(q), dk(k), dv(v), dbias(bias), dscale(scale);
    out dstate0_k(q->dtype, window_shape(q, window)), dstate0_v(q->dtype, window_shape(q, window));
    call([&] {
        return refgss_window_attention_vjp(q, k, v, bias, scale, state_k, state_v, dy, dstate_k, dstate_v,
                                           window, dq, dk, dv, dbias, dscale, dstate0_k, dstate0_v);
    });
    return py::make_tuple(dq.array(), dk.array(), dv.array(), dbias.array(), dscale.array(),
                          dstate0_k.array(), dstate0_v.array());
}

py::array state_attention(object q_, object k_, object v_, object scale_) {
    in q(q_, "q"), k(k_, "k"), v(v_, "v"), scale(scale_, "scale");
    out y(q->dtype, shape(q));
    call([&] { return refgss_state_attention(q, k, v, scale, y); });
    return y.array();
}

py::tuple state_attention_vjp(object q_, object k_, object v_, object scale_, object dy_) {
    in q(q_, "q"), k(k_, "k"), v(v_, "v"), scale(scale_, "scale"), dy(dy_, "dy");
    like dq(q), dk(k), dv(v), dscale(scale);
    call([&] { return refgss_state_attention_vjp(q, k, v, scale, dy, dq, dk, dv, dscale); });
    return py::make_tuple(dq.array(), dk.array(), dv.array(), dscale.array());
}

}  // namespace

void bind_block_recurrent(py::module_& module) {
    module.def("l2_normalize", &l2_normalize);
    module.def("l2_normalize_vjp", &l2_normalize_vjp);
    module.def("gate", &gate);
    module.def("gate_vjp", &gate_vjp);
    module.def("window_attention", &window_attention);
    module.def("window_attention_vjp", &window_attention_vjp);
    module.def("state_attention", &state_attention);
    module.def("state_attention_vjp", &state_attention_vjp);
}
