//! A candidate in Rust without dependencies: the gate's ops behind include/refgss.h.
//!
//!     rustc --edition 2021 -O --crate-type cdylib gss.rs -o libgss_rust.so
//!     refgss check --candidate lib:./libgss_rust.so
//!
//! Everything is computed in binary64 by the definitions and rounded once, when it is stored.
use std::cell::RefCell;
use std::ffi::{c_char, c_void, CString};

// ---- refgss.h -----------------------------------------------------------------------------------

const F32: i32 = 1;

/// refgss_array: a borrowed view; strides count elements.
#[repr(C)]
pub struct Array {
    data: *mut c_void,
    dtype: i32,
    rank: i32,
    shape: [i64; 4],
    stride: [i64; 4],
}

impl Array {
    fn shape(&self) -> &[i64] {
        &self.shape[..self.rank as usize]
    }

    /// Where the element `at` is, counted from `data`.
    fn offset<const R: usize>(&self, at: [i64; R]) -> isize {
        at.iter().zip(&self.stride).map(|(i, s)| i * s).sum::<i64>() as isize
    }

    fn get<const R: usize>(&self, at: [i64; R]) -> f64 {
        let offset = self.offset(at);
        // SAFETY: the caller of the op vouches for data, shape and stride; the ops stay inside
        unsafe {
            match self.dtype {
                F32 => *(self.data as *const f32).offset(offset) as f64,
                _ => *(self.data as *const f64).offset(offset),
            }
        }
    }

    fn set<const R: usize>(&self, at: [i64; R], value: f64) {
        let offset = self.offset(at);
        // SAFETY: as in `get`
        unsafe {
            match self.dtype {
                F32 => *(self.data as *mut f32).offset(offset) = value as f32,
                _ => *(self.data as *mut f64).offset(offset) = value,
            }
        }
    }
}

thread_local! { static SENTENCE: RefCell<CString> = RefCell::new(CString::default()); }

#[no_mangle]
pub extern "C" fn refgss_abi_version() -> i32 {
    2
}

#[no_mangle]
pub extern "C" fn refgss_last_error() -> *const c_char {
    SENTENCE.with(|s| s.borrow().as_ptr()) // lives until the next failure of this thread
}

/// What an op returns, as a status; the sentence of a refusal is kept for refgss_last_error.
fn status(result: Result<(), &str>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(why) => {
            SENTENCE.with(|s| *s.borrow_mut() = CString::new(why).unwrap_or_default());
            2 // REFGSS_ERROR_VALUE
        }
    }
}

fn require(holds: bool, sentence: &str) -> Result<(), &str> {
    if holds { Ok(()) } else { Err(sentence) }
}

// ---- the ops ------------------------------------------------------------------------------------

extern "C" {
    fn erfc(x: f64) -> f64; // of the C library; the standard library of Rust has none
}

/// lam (N,2) = -e^a + i e^b, or -e^a + i b
#[no_mangle]
pub extern "C" fn refgss_gss_lambda(a: &Array, b: &Array, imag_is_exp: i32, lam: &Array) -> i32 {
    status((|| {
        require(a.rank == 1 && a.shape() == b.shape(), "gss_lambda: a and b must be (N)")?;
        for n in 0..a.shape[0] {
            let imag = b.get([n]);
            lam.set([n, 0], -a.get([n]).exp());
            lam.set([n, 1], if imag_is_exp != 0 { imag.exp() } else { imag });
        }
        Ok(())
    })())
}

/// y[b,l,h] = sum over j of k[h,j] u[b,l-j,h]
#[no_mangle]
pub extern "C" fn refgss_causal_conv(u: &Array, k: &Array, y: &Array) -> i32 {
    status((|| {
        require(
            u.rank == 3 && k.rank == 2 && u.shape[2] == k.shape[0],
            "causal_conv: u must be (B,L,H) and k (H,Lk)",
        )?;
        let ([batch, length, channels, _], taps) = (u.shape, k.shape[1]);
        for b in 0..batch {
            for l in 0..length {
                for h in 0..channels {
                    let terms = (0..taps.min(l + 1)).map(|j| k.get([h, j]) * u.get([b, l - j, h]));
                    y.set([b, l, h], terms.sum());
                }
            }
        }
        Ok(())
    })())
}

/// (x - mean)/sqrt(var + eps) weight + bias, row by row of x (M,E)
#[no_mangle]
pub extern "C" fn refgss_layer_norm(
    x: &Array,
    weight: &Array,
    bias: &Array,
    eps: f64,
    y: &Array,
) -> i32 {
    status((|| {
        let width = x.shape[1];
        require(
            width > 0 && weight.shape() == [width] && bias.shape() == [width],
            "layer_norm: x must end in the axis E of weight (E) and bias (E)",
        )?;
        require(eps > 0.0, "layer_norm: eps must be positive")?;
        for m in 0..x.shape[0] {
            let mean = (0..width).map(|e| x.get([m, e])).sum::<f64>() / width as f64;
            let squares = (0..width).map(|e| (x.get([m, e]) - mean).powi(2));
            let deviation = (squares.sum::<f64>() / width as f64 + eps).sqrt();
            for e in 0..width {
                let normal = (x.get([m, e]) - mean) / deviation;
                y.set([m, e], normal * weight.get([e]) + bias.get([e]));
            }
        }
        Ok(())
    })())
}

/// x Phi(x), the exact form
#[no_mangle]
pub extern "C" fn refgss_gelu(x: &Array, y: &Array) -> i32 {
    for m in 0..x.shape[0] {
        for e in 0..x.shape[1] {
            let v = x.get([m, e]);
            // SAFETY: a function of a number
            let phi = unsafe { erfc(-v / std::f64::consts::SQRT_2) } / 2.0;
            y.set([m, e], v * phi);
        }
    }
    status(Ok(()))
}

/// y (M,O) = x (M,I) weight (I,O), plus bias (O) where there is one
#[no_mangle]
pub extern "C" fn refgss_dense(x: &Array, weight: &Array, bias: Option<&Array>, y: &Array) -> i32 {
    status((|| {
        require(
            weight.rank == 2 && x.shape[1] == weight.shape[0],
            "dense: weight must be (I,O) and x end in I",
        )?;
        let outputs = weight.shape[1];
        require(bias.map_or(true, |b| b.shape() == [outputs]), "dense: bias must be (O)")?;
        for m in 0..x.shape[0] {
            for o in 0..outputs {
                let terms = (0..weight.shape[0]).map(|i| x.get([m, i]) * weight.get([i, o]));
                y.set([m, o], terms.sum::<f64>() + bias.map_or(0.0, |b| b.get([o])));
            }
        }
        Ok(())
    })())
}
