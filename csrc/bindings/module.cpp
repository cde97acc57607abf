// module.cpp: the extension module refgss.native._core.
#include "bindings/numpy.hpp"

namespace {

unsigned long main_thread;

/// Asks Python for pending signals; only its main thread handles any.
int32_t pending_signal() {
    if (PyThread_get_thread_ident() != main_thread) return 0;
    py::gil_scoped_acquire held;
    return PyErr_CheckSignals();
}

// ---- ops ----------------------------------------------------------------------------------------

py::array causal_conv(const py::object& u, const py::object& k) {
    refgss_array au = view(u, "u"), ak = view(k, "k");
    py::array y = fresh(au.dtype, shape_of(au));
    refgss_array ay = view(y, "y");
    call([&] { return refgss_causal_conv(&au, &ak, &ay); });
    return y;
}

py::tuple causal_conv_vjp(const py::object& u, const py::object& k, const py::object& dy) {
    refgss_array au = view(u, "u"), ak = view(k, "k"), ady = view(dy, "dy");
    py::array du = fresh(au.dtype, shape_of(au)), dk = fresh(ak.dtype, shape_of(ak));
    refgss_array adu = view(du, "du"), adk = view(dk, "dk");
    call([&] { return refgss_causal_conv_vjp(&au, &ak, &ady, &adu, &adk); });
    return py::make_tuple(du, dk);
}

/// A kernel transformed once for signals of at most `length` steps.
class spectrum {
public:
    spectrum(const py::object& k, int64_t length) {
        refgss_array ak = view(k, "k");
        call([&] { return refgss_spectrum_new(&ak, length, &handle_); });
    }
    ~spectrum() { refgss_spectrum_free(handle_); }
    spectrum(const spectrum&) = delete;
    spectrum& operator=(const spectrum&) = delete;

    py::array operator()(const py::object& u) const {
        refgss_array au = view(u, "u");
        py::array y = fresh(au.dtype, shape_of(au));
        refgss_array ay = view(y, "y");
        call([&] { return refgss_spectrum_conv(handle_, &au, &ay); });
        return y;
    }

private:
    refgss_spectrum* handle_ = nullptr;
};

/// A convolution whose signal arrives in chunks.
class conv_stream {
public:
    conv_stream(const py::object& k, int64_t batch) {
        refgss_array ak = view(k, "k");
        call([&] { return refgss_conv_stream_new(&ak, batch, &handle_); });
    }
    ~conv_stream() { refgss_conv_stream_free(handle_); }
    conv_stream(const conv_stream&) = delete;
    conv_stream& operator=(const conv_stream&) = delete;

    py::array push(const py::object& u) {
        refgss_array au = view(u, "u");
        py::array y = fresh(au.dtype, shape_of(au));
        refgss_array ay = view(y, "y");
        call([&] { return refgss_conv_stream_push(handle_, &au, &ay); });
        return y;
    }

private:
    refgss_conv_stream* handle_ = nullptr;
};

}  // namespace

void bind_ssm(py::module_& module);  // ssm.cpp
void bind_attention(py::module_& module);  // attention.cpp
void bind_block_recurrent(py::module_& module);  // block_recurrent.cpp
void bind_decoder(py::module_& module);  // decoder.cpp

// pybind11's initialisation waits for ever in a sub-interpreter: a question comes before it.
#define PyInit__core init_in_the_main_interpreter
PYBIND11_MODULE(_core, module) {
    module.doc() = "The C ABI of refgss on NumPy arrays; refgss.native is the public face.";
    if (refgss_abi_version() != REFGSS_ABI_VERSION)
        throw py::import_error("librefgss implements version " + std::to_string(refgss_abi_version()) +
                               " of refgss.h, and refgss.native calls version " +
                               std::to_string(REFGSS_ABI_VERSION));
    if (refgss_simd() == nullptr || refgss_get_num_threads() == 0)
        throw py::import_error(refgss_last_error());
    main_thread = py::module_::import("threading")
                      .attr("main_thread")().attr("ident").cast<unsigned long>();
    check(refgss_set_interrupt_check(pending_signal));

    module.def("abi_version", &refgss_abi_version);
    module.def("simd", &refgss_simd);
    module.def("get_num_threads", &refgss_get_num_threads);
    module.def("set_num_threads", [](int32_t threads) {
        call([&] { return refgss_set_num_threads(threads); });
    });
    module.def("causal_conv", &causal_conv);
    module.def("causal_conv_vjp", &causal_conv_vjp);
    py::class_<spectrum>(module, "Spectrum",
                         "A kernel k (H,Lk), transformed once for signals u (B,L,H) of at most `length` "
                         "steps.  Several threads may use one at the same time.")
        .def(py::init<const py::object&, int64_t>())
        .def("__call__", &spectrum::operator());
    py::class_<conv_stream>(module, "ConvStream",
                            "A convolution with k (H,Lk) whose signal arrives in chunks u (B,L,H).  It "
                            "serves one thread at a time: a push from a second one raises RuntimeError.  "
                            "After a push that was interrupted it is where it was, or refuses all further "
                            "ones (ValueError).")
        .def(py::init<const py::object&, int64_t>())
        .def("push", &conv_stream::push);
    bind_ssm(module);
    bind_attention(module);
    bind_block_recurrent(module);
    bind_decoder(module);
}
#undef PyInit__core

extern "C" PYBIND11_EXPORT PyObject* PyInit__core() {
    if (PyInterpreterState_Get() == PyInterpreterState_Main()) return init_in_the_main_interpreter();
    PyErr_SetString(PyExc_ImportError,
                    "refgss.native works in the main interpreter of a process only: import it there");
    return nullptr;
}
