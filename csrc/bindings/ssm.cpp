// ssm.cpp: the state-space maps, pointwise maps and layers on NumPy arrays.
#include <map>

#include "bindings/params.hpp"

namespace {

py::array gss_lambda(object a_, object b_, bool imag_is_exp) {
    in a(a_, "a"), b(b_, "b");
    out lam(a->dtype, {a.axis(0)}, true);
    call([&] { return refgss_gss_lambda(a, b, imag_is_exp, lam); });
    return lam.array();
}

py::tuple gss_lambda_vjp(object a_, object b_, object dlam_, bool imag_is_exp) {
    in a(a_, "a"), b(b_, "b"), dlam(dlam_, "dlam");
    out da(a->dtype, {a.axis(0)}), db(a->dtype, {a.axis(0)});
    call([&] { return refgss_gss_lambda_vjp(a, b, dlam, imag_is_exp, da, db); });
    return py::make_tuple(da.array(), db.array());
}

py::tuple discretize(object lam_, object delta_, const py::tuple& form_) {
    in lam(lam_, "lam"), delta(delta_, "delta");
    refgss_form form = form_of(form_);
    lengths s = delta->rank ? lengths{delta.axis(0), lam.axis(0)} : lengths{lam.axis(0)};
    out abar(lam->dtype, s, true), bbar(lam->dtype, s, true);
    call([&] { return refgss_discretize(lam, delta, &form, abar, bbar); });
    return py::make_tuple(abar.array(), bbar.array());
}

py::tuple discretize_vjp(object lam_, object delta_, object dabar_, object dbbar_,
                         const py::tuple& form_) {
    in lam(lam_, "lam"), delta(delta_, "delta"), dabar(dabar_, "dabar"), dbbar(dbbar_, "dbbar");
    refgss_form form = form_of(form_);
    out dlam(lam->dtype, {lam.axis(0)}, true), ddelta(lam->dtype, shape(delta));
    call([&] { return refgss_discretize_vjp(lam, delta, dabar, dbbar, &form, dlam, ddelta); });
    return py::make_tuple(dlam.array(), ddelta.array());
}

py::array ssm_kernel(object lam_, object c_, py::ssize_t length, object delta_,
                     const py::tuple& form_) {
    in lam(lam_, "lam"), c(c_, "c"), delta(delta_, "delta");
    refgss_form form = form_of(form_);
    out k(lam->dtype, {c.axis(0), length});
    call([&] { return refgss_ssm_kernel(lam, c, delta, &form, k); });
    return k.array();
}

py::tuple ssm_kernel_vjp(object lam_, object c_, object dk_, object delta_, const py::tuple& form_) {
    in lam(lam_, "lam"), c(c_, "c"), dk(dk_, "dk"), delta(delta_, "delta");
    refgss_form form = form_of(form_);
    out dlam(lam->dtype, {lam.axis(0)}, true), dc(lam->dtype, {c.axis(0), c.axis(1)}, true);
    out ddelta(lam->dtype, shape(delta));
    call([&] { return refgss_ssm_kernel_vjp(lam, c, dk, delta, &form, dlam, dc, ddelta); });
    return py::make_tuple(dlam.array(), dc.array(), ddelta.array());
}

py::tuple ssm_scan(object u_, object lam_, object c_, object state_, object delta_,
                   const py::tuple& form_) {
    in u(u_, "u"), lam(lam_, "lam"), c(c_, "c"), state(state_, "state"), delta(delta_, "delta");
    refgss_form form = form_of(form_);
    out y(u->dtype, shape(u)), next(u->dtype, {u.axis(0), c.axis(0), c.axis(1)}, true);
    call([&] { return refgss_ssm_scan(u, lam, c, state, delta, &form, y, next); });
    return py::make_tuple(y.array(), next.array());
}

py::tuple ssm_step(object u_, object lam_, object c_, object state_, object delta_,
                   const py::tuple& form_) {
    in u(u_, "u"), lam(lam_, "lam"), c(c_, "c"), state(state_, "state"), delta(delta_, "delta");
    refgss_form form = form_of(form_);
    out y(u->dtype, shape(u)), next(u->dtype, {u.axis(0), c.axis(0), c.axis(1)}, true);
    call([&] { return refgss_ssm_step(u, lam, c, state, delta, &form, y, next); });
    return py::make_tuple(y.array(), next.array());
}

py::tuple ssm_scan_vjp(object u_, object lam_, object c_, object state_, object dy_, object dstate_,
                       object delta_, const py::tuple& form_) {
    in u(u_, "u"), lam(lam_, "lam"), c(c_, "c"), state(state_, "state"), delta(delta_, "delta");
    in dy(dy_, "dy"), dstate(dstate_, "dstate");
    refgss_form form = form_of(form_);
    const lengths states{u.axis(0), c.axis(0), c.axis(1)};
    out du(u->dtype, shape(u)), dlam(u->dtype, {lam.axis(0)}, true);
    out dc(u->dtype, {c.axis(0), c.axis(1)}, true), dstate0(u->dtype, states, true);
    out ddelta(u->dtype, shape(delta));
    call([&] {
        return refgss_ssm_scan_vjp(u, lam, c, state, dy, dstate, delta, &form, du, dlam, dc,
                                   dstate0, ddelta);
    });
    return py::make_tuple(du.array(), dlam.array(), dc.array(), dstate0.array(), ddelta.array());
}

/// A map prepared once: see refgss_ssm.
class prepared {
public:
    prepared(object lam_, object c_, object delta_, const py::tuple& form_, int64_t length) {
        in lam(lam_, "lam"), c(c_, "c"), delta(delta_, "delta");
        refgss_form form = form_of(form_);
        channels_ = c.axis(0), states_ = c.axis(1);
        call([&] { return refgss_ssm_new(lam, c, delta, &form, length, &handle_); });
    }
    ~prepared() { refgss_ssm_free(handle_); }
    prepared(const prepared&) = delete;
    prepared& operator=(const prepared&) = delete;

    py::tuple apply(object u_, object state_) const {
        in u(u_, "u"), state(state_, "state");
        out y(u->dtype, shape(u)), next(u->dtype, {u.axis(0), channels_, states_}, true);
        call([&] { return refgss_ssm_apply(handle_, u, state, y, next); });
        return py::make_tuple(y.array(), next.array());
    }
    /// The same, over the state.
    py::array advance(object u_, object state_) const {
        if (state_.is_none()) type_error("state is None: pass an array to advance");
        in u(u_, "u"), state(state_, "state");
        if (!py::reinterpret_borrow<py::array>(state_).writeable())
            throw py::value_error("state is read-only: pass a copy");
        out y(u->dtype, shape(u));
        call([&] { return refgss_ssm_apply(handle_, u, state, y, state); });
        return y.array();
    }
    py::ssize_t channels() const { return channels_; }
    py::ssize_t states() const { return states_; }
    const refgss_ssm* handle() const { return handle_; }

private:
    refgss_ssm* handle_ = nullptr;
    py::ssize_t channels_, states_;
};

class stepper {
public:
    stepper(const prepared& map, int64_t batch, int64_t block, object state_)
        : shape_{batch, map.channels(), map.states()} {
        in state(state_, "state");
        call([&] { return refgss_stepper_new(map.handle(), batch, block, state, &handle_); });
    }
    ~stepper() { refgss_stepper_free(handle_); }
    stepper(const stepper&) = delete;
    stepper& operator=(const stepper&) = delete;

    py::array step(object u_) {
        in u(u_, "u");
        out y(u->dtype, shape(u));
        call([&] { return refgss_stepper_step(handle_, u, y); });
        return y.array();
    }
    py::array state(bool is_double) const {
        out x(is_double ? REFGSS_F64 : REFGSS_F32, shape_, true);
        call([&] { return refgss_stepper_state(handle_, x); });
        return x.array();
    }

private:
    refgss_stepper* handle_ = nullptr;
    lengths shape_;
};

py::array layer_norm(object x_, object weight_, object bias_, double eps) {
    in x(x_, "x"), weight(weight_, "weight"), bias(bias_, "bias");
    out y(x->dtype, shape(x));
    call([&] { return refgss_layer_norm(x, weight, bias, eps, y); });
    return y.array();
}

py::tuple layer_norm_vjp(object x_, object weight_, object dy_, double eps) {
    in x(x_, "x"), weight(weight_, "weight"), dy(dy_, "dy");
    out dx(x->dtype, shape(x)), dweight(x->dtype, {x.axis(1)}), dbias(x->dtype, {x.axis(1)});
    call([&] { return refgss_layer_norm_vjp(x, weight, dy, eps, dx, dweight, dbias); });
    return py::make_tuple(dx.array(), dweight.array(), dbias.array());
}

py::array gelu(object x_) {
    in x(x_, "x");
    out y(x->dtype, shape(x));
    call([&] { return refgss_gelu(x, y); });
    return y.array();
}

py::array gelu_vjp(object x_, object dy_) {
    in x(x_, "x"), dy(dy_, "dy");
    out dx(x->dtype, shape(x));
    call([&] { return refgss_gelu_vjp(x, dy, dx); });
    return dx.array();
}

py::array dense(object x_, object weight_, object bias_) {
    in x(x_, "x"), weight(weight_, "weight"), bias(bias_, "bias");
    out y(x->dtype, {x.axis(0), weight.axis(1)});
    call([&] { return refgss_dense(x, weight, bias, y); });
    return y.array();
}

py::tuple dense_vjp(object x_, object weight_, object dy_) {
    in x(x_, "x"), weight(weight_, "weight"), dy(dy_, "dy");
    out dx(x->dtype, shape(x)), dweight(x->dtype, shape(weight)), dbias(x->dtype, {weight.axis(1)});
    call([&] { return refgss_dense_vjp(x, weight, dy, dx, dweight, dbias); });
    return py::make_tuple(dx.array(), dweight.array(), dbias.array());
}

/// The arrays of a layer by name; what is absent is NULL.
class layer_arrays {
public:
    explicit layer_arrays(const py::dict& params) {
        for (auto& [name, value] : params) {
            auto key = name.cast<std::string>();
            arrays_.emplace(key, in(py::reinterpret_borrow<py::object>(value), key.c_str()));
        }
    }
    const refgss_array* operator[](const char* name) const {
        auto found = arrays_.find(name);
        if (found == arrays_.end()) return nullptr;
        return found->second;
    }

private:
    std::map<std::string, in> arrays_;
};

template <class Layer>
py::tuple run_layer(const Layer& layer, const layer_arrays& p, const prepared* map, object x_,
                    object state_) {
    in x(x_, "x"), state(state_, "state");
    const refgss_array* c = p["ssm.c"];
    out y(x->dtype, shape(x)), next(x->dtype, {x.axis(0), c->shape[0], c->shape[1]}, true);
    const refgss_ssm* handle = map ? map->handle() : nullptr;
    const refgss_array *px = x, *pstate = state, *p_y = y, *pnext = next;
    call([&] { return layer(handle, px, pstate, p_y, pnext); });
    return py::make_tuple(y.array(), next.array());
}

/// Fresh gradients by name, for the parameters that a layer has.
class gradient_arrays {
public:
    explicit gradient_arrays(const py::dict& params) {
        for (auto& [name, value] : params) {
            auto key = name.cast<std::string>();
            auto array = py::reinterpret_borrow<py::object>(value);
            in like(array, key.c_str());
            bool is_complex = key == "ssm.c";
            lengths s = shape(like);
            if (is_complex) s.pop_back();
            arrays_.emplace(key, out(like->dtype, s, is_complex));
        }
    }
    const refgss_array* operator[](const char* name) const {
        auto found = arrays_.find(name);
        if (found == arrays_.end()) return nullptr;
        return found->second;
    }
    py::dict arrays() const {
        py::dict d;
        for (auto& [name, array] : arrays_) d[py::str(name)] = array.array();
        return d;
    }

private:
    std::map<std::string, out> arrays_;
};

template <class Layer>
py::tuple run_layer_vjp(const Layer& layer, const layer_arrays& p, const gradient_arrays& d,
                        object x_, object state_, object dy_, object dstate_) {
    in x(x_, "x"), state(state_, "state"), dy(dy_, "dout"), dstate(dstate_, "dstate");
    const refgss_array* c = p["ssm.c"];
    out dx(x->dtype, shape(x)), dstate0(x->dtype, {x.axis(0), c->shape[0], c->shape[1]}, true);
    const refgss_array *px = x, *pstate = state, *pdy = dy, *pdstate = dstate, *pdx = dx,
                       *pdstate0 = dstate0;
    call([&] { return layer(px, pstate, pdy, pdstate, pdx, pdstate0); });
    return py::make_tuple(d.arrays(), dx.array(), dstate0.array());
}

py::tuple gss_layer(const py::dict& params, const prepared* map, object x, object state,
                    bool imag_is_exp, double eps) {
    layer_arrays p(params);
    refgss_gss_layer_params a = gss_params(p, imag_is_exp, eps);
    auto layer = [&](auto*... arguments) { return refgss_gss_layer(&a, arguments...); };
    return run_layer(layer, p, map, x, state);
}

/// What a forward pass keeps for its gradient, in the order of refgss_gss_layer_kept.
py::tuple gss_layer_keeping(const py::dict& params, object x_, object state_, bool imag_is_exp,
                            double eps) {
    layer_arrays p(params);
    refgss_gss_layer_params a = gss_params(p, imag_is_exp, eps);
    in x(x_, "x"), state(state_, "state");
    const refgss_array* c = p["ssm.c"];
    const py::ssize_t B = x.axis(0), L = x.axis(1), H = c->shape[0], F = a.w_v->shape[1];
    out y(x->dtype, shape(x)), next(x->dtype, {B, H, c->shape[1]}, true);
    out v(x->dtype, {B, L, F}), u(x->dtype, {B, L, H}), s(x->dtype, {B, L, H}), uc(x->dtype, {B, L, F});
    const refgss_gss_layer_kept kept{v, u, s, uc};
    call([&] { return refgss_gss_layer_keeping(&a, x, state, y, next, &kept); });
    return py::make_tuple(y.array(), next.array(),
                          py::make_tuple(v.array(), u.array(), s.array(), uc.array()));
}

py::tuple dss_layer(const py::dict& params, const prepared* map, object x, object state,
                    bool imag_is_exp, double eps, const py::tuple& form) {
    layer_arrays p(params);
    refgss_dss_layer_params a = dss_params(p, imag_is_exp, eps, form_of(form));
    auto layer = [&](auto*... arguments) { return refgss_dss_layer(&a, arguments...); };
    return run_layer(layer, p, map, x, state);
}

py::tuple gss_layer_vjp(const py::dict& params, object x, object state, object kept_, object dy,
                        object dstate, bool imag_is_exp, double eps) {
    layer_arrays p(params);
    std::vector<in> had;
    if (!kept_.is_none())
        for (auto array : kept_.cast<py::tuple>())
            had.emplace_back(py::reinterpret_borrow<py::object>(array), "kept");
    if (!had.empty() && had.size() != 4) throw py::value_error("kept has four arrays");
    refgss_gss_layer_kept kept{};
    if (!had.empty()) kept = {had[0], had[1], had[2], had[3]};
    const refgss_gss_layer_kept* pkept = had.empty() ? nullptr : &kept;
    gradient_arrays d(params);
    refgss_gss_layer_params a = gss_params(p, imag_is_exp, eps), g = gss_params(d, imag_is_exp, eps);
    auto layer = [&](auto* x, auto* state, auto* dy, auto* dstate, auto* dx, auto* dstate0) {
        return refgss_gss_layer_vjp(&a, x, state, pkept, dy, dstate, &g, dx, dstate0);
    };
    return run_layer_vjp(layer, p, d, x, state, dy, dstate);
}

py::tuple dss_layer_vjp(const py::dict& params, object x, object state, object dy, object dstate,
                        bool imag_is_exp, double eps, const py::tuple& form_) {
    layer_arrays p(params);
    gradient_arrays d(params);
    refgss_form form = form_of(form_);
    refgss_dss_layer_params a = dss_params(p, imag_is_exp, eps, form),
                            g = dss_params(d, imag_is_exp, eps, form);
    auto layer = [&](auto* x, auto* state, auto* dy, auto* dstate, auto* dx, auto* dstate0) {
        return refgss_dss_layer_vjp(&a, x, state, dy, dstate, &g, dx, dstate0);
    };
    return run_layer_vjp(layer, p, d, x, state, dy, dstate);
}

}  // namespace

void bind_ssm(py::module_& module) {
    module.def("gss_lambda", &gss_lambda);
    module.def("gss_lambda_vjp", &gss_lambda_vjp);
    module.def("discretize", &discretize);
    module.def("discretize_vjp", &discretize_vjp);
    module.def("ssm_kernel", &ssm_kernel);
    module.def("ssm_kernel_vjp", &ssm_kernel_vjp);
    module.def("ssm_scan", &ssm_scan);
    module.def("ssm_scan_vjp", &ssm_scan_vjp);
    module.def("ssm_step", &ssm_step);
    module.def("layer_norm", &layer_norm);
    module.def("layer_norm_vjp", &layer_norm_vjp);
    module.def("gelu", &gelu);
    module.def("gelu_vjp", &gelu_vjp);
    module.def("dense", &dense);
    module.def("dense_vjp", &dense_vjp);
    module.def("gss_layer", &gss_layer);
    module.def("gss_layer_keeping", &gss_layer_keeping);
    module.def("dss_layer", &dss_layer);
    module.def("gss_layer_vjp", &gss_layer_vjp);
    module.def("dss_layer_vjp", &dss_layer_vjp);
    py::class_<prepared>(module, "Prepared")
        .def(py::init<object, object, object, const py::tuple&, int64_t>())
        .def("__call__", &prepared::apply)
        .def("advance", &prepared::advance);
    py::class_<stepper>(module, "Stepper")
        .def(py::init<const prepared&, int64_t, int64_t, object>(), py::keep_alive<1, 2>())
        .def("step", &stepper::step)
        .def("state", &stepper::state);
}
