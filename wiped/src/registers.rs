//! What the processor itself keeps of bytes that were copied. Enter through [`clear_registers`] and
//! [`leaving_none`].
#![allow(unsafe_code)]

/// Overwrites the vector registers of this thread: for one that goes to sleep after it may have handled
/// secrets.
///
/// What copies more than a few bytes does so through these registers and leaves the last 16 to 64 of them
/// there. They stay for as long as the thread sleeps, and a core dump shows them. On other processors than
/// x86-64 this does nothing.
pub fn clear_registers() {
    #[cfg(target_arch = "x86_64")]
    x86_64::clear();
}

/// Does `work` and overwrites the vector registers after it, also when it panics: for work with secrets on a
/// thread of a pool. What it gives must not have them inside: it is moved afterwards.
pub fn leaving_none<T>(work: impl FnOnce() -> T) -> T {
    let _cleared = Clear;
    work()
}

struct Clear;

impl Drop for Clear {
    fn drop(&mut self) {
        clear_registers();
    }
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::asm;

    pub(super) fn clear() {
        if is_x86_feature_detected!("avx") {
            // SAFETY: the processor has it. It writes vector registers, which a call may change.
            unsafe { asm!("vzeroall", clobber_abi("C"), options(nostack, preserves_flags)) };
        } else {
            // SAFETY: every x86-64 processor has them. They write vector registers, which a call may change.
            unsafe {
                asm!(
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
                    "xorps xmm15, xmm15",
                    clobber_abi("C"),
                    options(nostack, preserves_flags)
                )
            };
        }
        // These 16 are there with AVX-512 only; the short form clears all of each.
        if is_x86_feature_detected!("avx512vl") {
            // SAFETY: the processor has them. They write vector registers, which a call may change.
            unsafe {
                asm!(
                    "vpxord xmm16, xmm16, xmm16",
                    "vpxord xmm17, xmm17, xmm17",
                    "vpxord xmm18, xmm18, xmm18",
                    "vpxord xmm19, xmm19, xmm19",
                    "vpxord xmm20, xmm20, xmm20",
                    "vpxord xmm21, xmm21, xmm21",
                    "vpxord xmm22, xmm22, xmm22",
                    "vpxord xmm23, xmm23, xmm23",
                    "vpxord xmm24, xmm24, xmm24",
                    "vpxord xmm25, xmm25, xmm25",
                    "vpxord xmm26, xmm26, xmm26",
                    "vpxord xmm27, xmm27, xmm27",
                    "vpxord xmm28, xmm28, xmm28",
                    "vpxord xmm29, xmm29, xmm29",
                    "vpxord xmm30, xmm30, xmm30",
                    "vpxord xmm31, xmm31, xmm31",
                    clobber_abi("C"),
                    options(nostack, preserves_flags)
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

    /// The secret in each of the registers that every processor has, and what is in them after `then`.
    fn after(then: extern "C" fn()) -> [[u8; 16]; 16] {
        let mut left = [[1; 16]; 16];
        // SAFETY: the buffers have the bytes that are read and written; a function is called as the ABI says,
        // on a stack that this block aligns, and what such a call changes is named.
        unsafe {
            asm!(
                "movups xmm0, [{secret}]",
                "movups xmm1, [{secret}]",
                "movups xmm2, [{secret}]",
                "movups xmm3, [{secret}]",
                "movups xmm4, [{secret}]",
                "movups xmm5, [{secret}]",
                "movups xmm6, [{secret}]",
                "movups xmm7, [{secret}]",
                "movups xmm8, [{secret}]",
                "movups xmm9, [{secret}]",
                "movups xmm10, [{secret}]",
                "movups xmm11, [{secret}]",
                "movups xmm12, [{secret}]",
                "movups xmm13, [{secret}]",
                "movups xmm14, [{secret}]",
                "movups xmm15, [{secret}]",
                "mov r12, rsp",
                "and rsp, -16",
                "call r14",
                "mov rsp, r12",
                "movups [r13 + 0], xmm0",
                "movups [r13 + 16], xmm1",
                "movups [r13 + 32], xmm2",
                "movups [r13 + 48], xmm3",
                "movups [r13 + 64], xmm4",
                "movups [r13 + 80], xmm5",
                "movups [r13 + 96], xmm6",
                "movups [r13 + 112], xmm7",
                "movups [r13 + 128], xmm8",
                "movups [r13 + 144], xmm9",
                "movups [r13 + 160], xmm10",
                "movups [r13 + 176], xmm11",
                "movups [r13 + 192], xmm12",
                "movups [r13 + 208], xmm13",
                "movups [r13 + 224], xmm14",
                "movups [r13 + 240], xmm15",
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
        assert_eq!(after(nothing), [SECRET; 16], "the test sees what is left");
        assert_eq!(after(cleared), [[0; 16]; 16]);
    }
}
