//! What the processor itself keeps of bytes that were copied. Enter through [`clear_registers`] and
//! [`leaving_none`].
#![allow(unsafe_code)]

/// Overwrites the vector registers of this thread: for one that goes to sleep after it may have handled
/// secrets.
///
/// Whatever copies bytes does so through these registers and leaves the last 16 to 64 bytes there. They stay
/// for as long as the thread sleeps, and a core dump shows them. On other processors than x86-64 this does
/// nothing.
// Never inlined: to its callers it is a function like any other, of which they expect that it changes all
// these registers, also those that the code below cannot name as changed.
#[inline(never)]
pub fn clear_registers() {
    #[cfg(target_arch = "x86_64")]
    x86_64::clear();
}

/// Does `work` and overwrites the vector registers after it, for work with secrets on a thread of a pool.
pub fn leaving_none<T>(work: impl FnOnce() -> T) -> T {
    let done = work();
    clear_registers();
    done
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::asm;

    /// Runs instructions that change nothing but the first 16 vector registers.
    macro_rules! change_vectors {
        ($($instruction:literal),*) => {
            asm!(
                $($instruction,)*
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                options(nomem, nostack, preserves_flags)
            )
        };
    }

    pub(super) fn clear() {
        if is_x86_feature_detected!("avx") {
            // SAFETY: the processor has the instruction, which writes the registers named as changed.
            unsafe { change_vectors!("vzeroall") };
        } else {
            // SAFETY: every x86-64 processor has them, and they write the registers named as changed.
            unsafe {
                change_vectors!(
                    "xorps xmm0, xmm0",
                    "xorps xmm1, xmm1",
                    "xorps xmm2, xmm2",
                    "xorps xmm3, xmm3",
                    "xorps xmm4, xmm4",
                    "xorps xmm5, xmm5",
                    "xorps xmm6, xmm6",
                    "xorps xmm7, xmm7",
                    "xorps xmm8, xmm8",
                    "xorps xmm9, xmm9",
                    "xorps xmm10, xmm10",
                    "xorps xmm11, xmm11",
                    "xorps xmm12, xmm12",
                    "xorps xmm13, xmm13",
                    "xorps xmm14, xmm14",
                    "xorps xmm15, xmm15"
                )
            };
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has them. They write registers that no caller keeps over a call (System V
            // ABI) and that code compiled without AVX-512, as this function is, does not use.
            unsafe {
                asm!(
                    "vpxord zmm16, zmm16, zmm16",
                    "vpxord zmm17, zmm17, zmm17",
                    "vpxord zmm18, zmm18, zmm18",
                    "vpxord zmm19, zmm19, zmm19",
                    "vpxord zmm20, zmm20, zmm20",
                    "vpxord zmm21, zmm21, zmm21",
                    "vpxord zmm22, zmm22, zmm22",
                    "vpxord zmm23, zmm23, zmm23",
                    "vpxord zmm24, zmm24, zmm24",
                    "vpxord zmm25, zmm25, zmm25",
                    "vpxord zmm26, zmm26, zmm26",
                    "vpxord zmm27, zmm27, zmm27",
                    "vpxord zmm28, zmm28, zmm28",
                    "vpxord zmm29, zmm29, zmm29",
                    "vpxord zmm30, zmm30, zmm30",
                    "vpxord zmm31, zmm31, zmm31",
                    options(nomem, nostack, preserves_flags)
                )
            };
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::arch::asm;

    use super::*;

    const SECRET: [u8; 16] = *b"sixteen of a key";

    /// The secret in the first and the last register of those that every processor has, and what is in them
    /// after `then`.
    fn after(then: extern "C" fn()) -> [[u8; 16]; 2] {
        let mut left = [[1; 16]; 2];
        // SAFETY: the buffers have the 16 bytes that are read and written; a function is called as the ABI
        // says, on a stack that this block aligns, and what such a call changes is named.
        unsafe {
            asm!(
                "movups xmm0, [{secret}]",
                "movups xmm15, [{secret}]",
                "mov r12, rsp",
                "and rsp, -16",
                "call r14",
                "mov rsp, r12",
                "movups [r13], xmm0",
                "movups [r13 + 16], xmm15",
                secret = in(reg) SECRET.as_ptr(),
                // Those that the function keeps.
                out("r12") _,
                in("r13") left.as_mut_ptr(),
                in("r14") then,
                clobber_abi("C"),
            );
        }
        left
    }

    extern "C" fn nothing() {}

    extern "C" fn cleared() {
        clear_registers();
    }

    #[test]
    fn nothing_is_left_of_what_was_copied() {
        assert_eq!(after(nothing), [SECRET; 2], "the test sees what is left");
        assert_eq!(after(cleared), [[0; 16]; 2]);
    }
}
