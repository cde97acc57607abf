// attention.cpp: attention and its parts on NumPy arrays.
#include <optional>

#include "bindings/numpy.hpp"

namespace {

using numbers = py::array_t<int64_t, py::array::c_style>;

/// (chunk, visible, unscaled)
refgss_window window_of(const py::tuple& t) {
    return {t[0].cast<int64_t>(), t[1].cast<int32_t>(), t[2].cast<bool>()};
}
py::ssize_t slots_of(const refgss_window& w) {
    return (w.visible == REFGSS_VISIBLE_LOOK1 ? 2 : 1) * static_cast<py::ssize_t>(w.chunk);
}

/// A state (k, v, t), or None.
struct state_in {
    in k, v;
    std::optional<numbers> t;
    explicit state_in(object state)
        : k(part(state, 0), "state k"), v(part(state, 1), "state v") {
        if (!state.is_none()) t = part(state, 2).cast<numbers>();
    }
    const int64_t* tokens() const { return t ? t->data() : nullptr; }

    static py::object part(object state, int i) {
        return state.is_none() ? py::none() : py::object(state.cast<py::tuple>()[i]);
    }
};

/// Of q or of one token of it: rows of the batch; of k: heads; and the width of a head.
lengths slots_shape(const in& q, const in& k, const refgss_window& w) {
    const int rank = q->rank;
    return {q.axis(0), slots_of(w), k.axis(rank - 2), q.axis(rank - 1)};
}

template <class Op>
py::tuple run(Op op, object q_, object k_, object v_, object bias_, object state_, const py::tuple& window_) {
    in q(q_, "q"), k(k_, "k"), v(v_, "v"), bias(bias_, "bias");
    const state_in state(state_);
    const refgss_window window = window_of(window_);
    const lengths kept = slots_shape(q, k, window);
    out y(q->dtype, shape(q)), next_k(q->dtype, kept), next_v(q->dtype, kept);
    numbers next_t(q.axis(0));
    int64_t* t = next_t.mutable_data();
    call([&] {
        return op(q, k, v, bias, state.k, state.v, state.tokens(), &window, y, next_k, next_v, t);
    });
    return py::make_tuple(y.array(), py::make_tuple(next_k.array(), next_v.array(), next_t));
}

template <class Op>
py::tuple run_vjp(Op op, object q_, object k_, object v_, object bias_, object state_, object dy_,
                  object dstate_k_, object dstate_v_, const py::tuple& window_) {
    in q(q_, "q"), k(k_, "k"), v(v_, "v"), bias(bias_, "bias"), dy(dy_, "dy");
    in dstate_k(dstate_k_, "dstate k"), dstate_v(dstate_v_, "dstate v");
    const state_in state(state_);
    const refgss_window window = window_of(window_);
    const lengths kept = slots_shape(q, k, window);
    out dq(q->dtype, shape(q)), dk(q->dtype, shape(k)), dv(q->dtype, shape(v));
    out dstate0_k(q->dtype, kept), dstate0_v(q->dtype, kept);
    std::optional<out> dbias;
    if (!bias_.is_none()) dbias.emplace(q->dtype, shape(bias));
    const refgss_array* dbias_array = dbias ? static_cast<const refgss_array*>(*dbias) : nullptr;
    call([&] {
        return op(q, k, v, bias, state.k, state.v, state.tokens(), dy, dstate_k, dstate_v, &window, dq,
                  dk, dv, dbias_array, dstate0_k, dstate0_v);
    });
    return py::make_tuple(dq.array(), dk.array(), dv.array(),
                          dbias ? py::object(dbias->array()) : py::none(), dstate0_k.array(),
                          dstate0_v.array());
}

py::array rms_norm(object x_, object weight_, double eps) {
    in x(x_, "x"), weight(weight_, "weight");
    out y(x->dtype, shape(x));
    call([&] { return refgss_rms_norm(x, weight, eps, y); });
    return y.array();
}

py::tuple rms_norm_vjp(object x_, object weight_, object dy_, double eps) {
    in x(x_, "x"), weight(weight_, "weight"), dy(dy_, "dy");
    out dx(x->dtype, shape(x)), dweight(x->dtype, {x.axis(1)});
    call([&] { return refgss_rms_norm_vjp(x, weight, dy, eps, dx, dweight); });
    return py::make_tuple(dx.array(), dweight.array());
}

py::array rope(object x_, const numbers& r, double base, int32_t pairing, bool back) {
    in x(x_, back ? "dy" : "x");
    out y(x->dtype, shape(x));
    const int64_t* at = r.data();
    call([&] {
        return back ? refgss_rope_vjp(at, x, base, pairing, y) : refgss_rope(x, at, base, pairing, y);
    });
    return y.array();
}

py::array t5_bias(object table_, py::ssize_t length) {
    in table(table_, "table");
    out bias(table->dtype, {table.axis(0), length});
    call([&] { return refgss_t5_bias(table, bias); });
    return bias.array();
}

py::array t5_bias_vjp(object dbias_) {
    in dbias(dbias_, "dbias");
    out dtable(dbias->dtype, {dbias.axis(0), 32});
    call([&] { return refgss_t5_bias_vjp(dbias, dtable); });
    return dtable.array();
}

}  // namespace

void bind_attention(py::module_& module) {
    module.def("attention", [](object q, object k, object v, object bias, object state,
                               const py::tuple& window) {
        return run(refgss_attention, q, k, v, bias, state, window);
    });
    module.def("attention_step", [](object q, object k, object v, object bias, object state,
                                    const py::tuple& window) {
        return run(refgss_attention_step, q, k, v, bias, state, window);
    });
    module.def("attention_vjp", [](object q, object k, object v, object bias, object state, object dy,
                                   object dstate_k, object dstate_v, const py::tuple& window) {
        return run_vjp(refgss_attention_vjp, q, k, v, bias, state, dy, dstate_k, dstate_v, window);
    });
    module.def("attention_step_vjp", [](object q, object k, object v, object bias, object state, object dy,
                                        object dstate_k, object dstate_v, const py::tuple& window) {
        return run_vjp(refgss_attention_step_vjp, q, k, v, bias, state, dy, dstate_k, dstate_v, window);
    });
    module.def("rms_norm", &rms_norm);
    module.def("rms_norm_vjp", &rms_norm_vjp);
    module.def("rope", &rope);
    module.def("t5_bias", &t5_bias);
    module.def("t5_bias_vjp", &t5_bias_vjp);
}
