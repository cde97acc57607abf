// ssm.cpp: the recurrence at the C ABI: scan, its gradient, one step, a prepared map and the stepper.
#include "abi/ssm.hpp"

#include <algorithm>

#include "ssm/gradient.hpp"
#include "ssm/stepper.hpp"

using namespace refgss;

struct refgss_stepper : changing_handle {
    explicit refgss_stepper(either<stepper> steps) : made(std::move(steps)) {}
    either<stepper> made;
};

namespace {

/// (B,H) as (B,1,H).
template <class T> view<T, 3> one_step(view<T, 2> v) {
    return {v.data, {v.shape[0], 1, v.shape[1]}, {v.stride[0], 0, v.stride[1]}};
}

/// Whether a scan has no output; its states are checked.
template <class T>
bool nothing_to_do(const ssm_arguments<T>& in, view<const T, 3> u, const refgss_array* state,
                   const refgss_array* state_out) {
    const int64_t B = u.shape[0], H = in.c.shape[0], N = in.c.shape[1];
    check_axis("u", "H", u.shape[2], H);
    state_of<const T>(state, "state", B, H, N);
    const auto to = state_of<T>(state_out, "state_out", B, H, N);
    return u.size() == 0 && (!to.present || to.v.size() == 0);
}

template <class T>
void scan(const ssm<T>& map, view<const T, 3> u, const refgss_array* state, view<T, 3> y,
          const refgss_array* state_out) {
    const int64_t B = u.shape[0], H = map.channels(), N = map.states();
    check_axis("u", "H", u.shape[2], H);
    auto from = state_of<const T>(state, "state", B, H, N);
    auto to = state_of<T>(state_out, "state_out", B, H, N);
    map.apply(u, from.get(), y, to.get());
}

/// Whether a state is overwritten by the next one.
bool in_place(const refgss_array* state, const refgss_array* state_out) {
    return state != nullptr && state_out != nullptr && state->data == state_out->data &&
           state->rank == state_out->rank &&
           std::equal(state->stride, state->stride + REFGSS_MAX_RANK, state_out->stride);
}

/// No output may meet an input; only state_out may be state.
void check_scan_outputs(const refgss_array* u, const refgss_array* state, const refgss_array* y,
                        const refgss_array* state_out, std::vector<named_array> inputs = {}) {
    inputs.push_back({u, "u"});
    if (!in_place(state, state_out)) inputs.push_back({state, "state"});
    check_outputs({{y, "y"}, {state_out, "state_out"}}, inputs);
}

}  // namespace

int32_t refgss_ssm_scan(const refgss_array* u, const refgss_array* lam, const refgss_array* c,
                        const refgss_array* state, const refgss_array* delta,
                        const refgss_form* form, const refgss_array* y,
                        const refgss_array* state_out) {
    return guarded([&] {
        check_array(u, "u", 3);
        with_scalar(*u, [&](auto scalar) {
            using T = decltype(scalar);
            ssm_arguments<T> in(lam, c, delta, form);
            auto vu = checked<const T, 3>(u, "u");
            auto vy = shaped<T, 3>(y, "y", vu.shape[0], vu.shape[1], vu.shape[2]);
            in.check_length(vu.shape[1]);
            check_scan_outputs(u, state, y, state_out, {{lam, "lam"}, {c, "c"}, {delta, "delta"}});
            if (nothing_to_do(in, vu, state, state_out)) return;
            scan<T>(ssm<T>(in.p, in.c, vu.shape[1] == 1 ? 0 : vu.shape[1]), vu, state, vy, state_out);
        });
    });
}

int32_t refgss_ssm_step(const refgss_array* u, const refgss_array* lam, const refgss_array* c,
                        const refgss_array* state, const refgss_array* delta,
                        const refgss_form* form, const refgss_array* y,
                        const refgss_array* state_out) {
    return guarded([&] {
        check_array(u, "u", 2);
        with_scalar(*u, [&](auto scalar) {
            using T = decltype(scalar);
            ssm_arguments<T> in(lam, c, delta, form);
            auto vu = checked<const T, 2>(u, "u");
            auto vy = shaped<T, 2>(y, "y", vu.shape[0], vu.shape[1]);
            check_scan_outputs(u, state, y, state_out, {{lam, "lam"}, {c, "c"}, {delta, "delta"}});
            if (nothing_to_do(in, one_step(vu), state, state_out)) return;
            scan<T>(ssm<T>(in.p, in.c, 0), one_step(vu), state, one_step(vy), state_out);
        });
    });
}

int32_t refgss_ssm_scan_vjp(const refgss_array* u, const refgss_array* lam, const refgss_array* c,
                            const refgss_array* state, const refgss_array* dy,
                            const refgss_array* dstate, const refgss_array* delta,
                            const refgss_form* form, const refgss_array* du,
                            const refgss_array* dlam, const refgss_array* dc,
                            const refgss_array* dstate0, const refgss_array* ddelta) {
    return guarded([&] {
        check_array(u, "u", 3);
        with_scalar(*u, [&](auto scalar) {
            using T = decltype(scalar);
            ssm_arguments<T> in(lam, c, delta, form);
            auto vu = checked<const T, 3>(u, "u");
            const int64_t B = vu.shape[0], L = vu.shape[1], H = vu.shape[2], N = in.c.shape[1];
            check_axis("u", "H", H, in.c.shape[0]);
            in.check_length(L);
            auto from = state_of<const T>(state, "state", B, H, N);
            auto cotangent = state_of<const T>(dstate, "dstate", B, H, N);
            auto to = state_of<T>(dstate0, "dstate0", B, H, N);
            auto vdy = shaped<const T, 3>(dy, "dy", B, L, H);
            auto vdu = shaped<T, 3>(du, "du", B, L, H);
            check_modes_outputs<T>(in.p, in.c, dlam, dc, ddelta);
            check_outputs({{du, "du"}, {dlam, "dlam"}, {dc, "dc"}, {dstate0, "dstate0"},
                           {ddelta, "ddelta"}},
                          {{u, "u"}, {lam, "lam"}, {c, "c"}, {state, "state"}, {dy, "dy"},
                           {dstate, "dstate"}, {delta, "delta"}});
            ssm_scan_vjp<T>(in, vu, from.get(), vdy, cotangent.get(), vdu, to.get(), {dlam, dc, ddelta});
        });
    });
}

int32_t refgss_ssm_new(const refgss_array* lam, const refgss_array* c, const refgss_array* delta,
                       const refgss_form* form, int64_t length, refgss_ssm** result) {
    return guarded([&] {
        *need(result, "ssm") = nullptr;
        check_array(lam, "lam", 2);
        if (length < 0) throw error{REFGSS_ERROR_VALUE, "length must not be negative"};
        with_scalar(*lam, [&](auto scalar) {
            using T = decltype(scalar);
            ssm_arguments<T> in(lam, c, delta, form);
            in.check_length(length);
            auto map = std::make_unique<ssm<T>>(in.p, in.c, length);
            map->prepare();
            *result = new refgss_ssm{either<ssm>(std::move(map))};
        });
    });
}

void refgss_ssm_free(refgss_ssm* handle) { delete handle; }

int32_t refgss_ssm_apply(const refgss_ssm* handle, const refgss_array* u, const refgss_array* state,
                         const refgss_array* y, const refgss_array* state_out) {
    return guarded([&] {
        need(handle, "the handle")->made.visit([&](auto& map) {
            using T = typename std::decay_t<decltype(map)>::scalar;
            auto vu = checked<const T, 3>(u, "u");
            auto vy = shaped<T, 3>(y, "y", vu.shape[0], vu.shape[1], vu.shape[2]);
            check_scan_outputs(u, state, y, state_out);
            scan<T>(map, vu, state, vy, state_out);
        });
    });
}

int32_t refgss_stepper_new(const refgss_ssm* handle, int64_t batch, int64_t block,
                           const refgss_array* state, refgss_stepper** result) {
    return guarded([&] {
        *need(result, "stepper") = nullptr;
        if (batch < 0 || block < 1)
            throw error{REFGSS_ERROR_VALUE, "a stepper needs batch >= 0 and block >= 1"};
        need(handle, "the handle")->made.visit([&](auto& map) {
            using T = typename std::decay_t<decltype(map)>::scalar;
            auto from = state_of<const T>(state, "state", batch, map.channels(), map.states());
            auto steps = std::make_unique<stepper<T>>(map, batch, block, from.get());
            *result = new refgss_stepper(either<stepper>(std::move(steps)));
        });
    });
}

void refgss_stepper_free(refgss_stepper* handle) { delete handle; }

int32_t refgss_stepper_step(refgss_stepper* handle, const refgss_array* u, const refgss_array* y) {
    return alone_with(handle, [&](refgss_stepper& mine) {
        mine.made.visit([&](auto& steps) {
            using T = typename std::decay_t<decltype(steps.map())>::scalar;
            const int64_t B = steps.batch(), H = steps.map().channels();
            auto from = shaped<const T, 2>(u, "u", B, H);
            auto to = shaped<T, 2>(y, "y", B, H);
            check_outputs({{y, "y"}}, {{u, "u"}});
            steps.step(from, to);
        });
    });
}

int32_t refgss_stepper_state(const refgss_stepper* handle, const refgss_array* state_out) {
    return alone_with(handle, [&](const refgss_stepper& mine) {
        mine.made.visit([&](auto& steps) {
            using T = typename std::decay_t<decltype(steps.map())>::scalar;
            auto& map = steps.map();
            auto to = shaped<T, 4>(state_out, "state_out", steps.batch(), map.channels(),
                                   map.states(), int64_t(2));
            check_outputs({{state_out, "state_out"}}, {});
            steps.state(to);
        });
    });
}
