//! What compilers say of a shader: read from the text that they print for developers.

use serde::{Deserialize, Serialize};

/// Of one pipeline; `None` where the compiler does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// For each lane (Intel: for each thread, always 128 or 256).
    pub registers: Option<u32>,
    pub spills: Option<u32>,
    /// Bytes of workgroup memory.
    pub lds: Option<u32>,
    /// Bytes of code (NVIDIA: instructions).
    pub code: Option<u32>,
    /// A dot product of four bytes is one instruction.
    pub dot: bool,
    /// There are instructions on matrices.
    pub matrix: bool,
}

/// Who compiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compiler {
    Radv,
    Anv,
    Nvk,
    Turnip,
    Honeykrisp,
}

impl Compiler {
    /// Takes a line of the dump of a pipeline.
    pub fn read(self, line: &str, figures: &mut Figures) {
        let after = |name: &str| number(line.strip_prefix(name)?);
        match self {
            Self::Radv => {
                figures.dot |= line.contains("v_dot4");
                figures.matrix |= line.contains("v_wmma");
                figures.registers = after("VGPRs: ").or(figures.registers);
                figures.lds = after("LDS size: ").or(figures.lds);
                figures.code = after("Code size: ").or(figures.code);
                // Those of scalar registers go to vector registers.
                figures.spills = after("Spilled VGPRs: ").or(figures.spills);
            }
            // One line for each width that was tried: the last that did not spill is used.
            Self::Anv => {
                figures.dot |= line.contains("dp4a");
                figures.matrix |= line.contains("dpas");
                if !(line.starts_with("SIMD") && line.contains(" shader: ")) {
                    return;
                }
                let word = |end: &str| {
                    let before = &line[..line.find(end)?];
                    number(before.rsplit([' ', ':']).next()?)
                };
                let spills = {
                    let before = line.find(" spills:fills").map(|at| &line[..at]);
                    before.and_then(|text| number(text.rsplit(' ').next()?))
                };
                if figures
                    .spills
                    .is_none_or(|known| spills.is_some_and(|new| new <= known))
                {
                    figures.spills = spills;
                    figures.code = word(" bytes (");
                    figures.registers = line.split("GRF registers: ").nth(1).and_then(number);
                }
            }
            Self::Nvk => {
                figures.dot |= line.contains("idp4");
                figures.matrix |= line.contains("hmma") || line.contains("imma");
                figures.registers = after("Num GPRs: ").or(figures.registers);
                figures.code = after("Instruction count: ").or(figures.code);
                figures.spills = after("Spills to mem: ").or(figures.spills);
            }
            Self::Turnip => {
                figures.dot |= line.contains("dp4acc") || line.contains("dp2acc");
                if let (true, Some(at)) = (line.contains("; CL prog"), line.find(" full,")) {
                    figures.registers = line[..at].rsplit(' ').next().and_then(number);
                }
                if let (true, Some(at)) = (line.contains("; CL prog"), line.find(" dwords")) {
                    let dwords = line[..at].rsplit(' ').next().and_then(number);
                    figures.code = dwords.map(|words| 4 * words);
                    figures.spills = figures.spills.or(Some(0));
                }
                // Stores to private memory: nothing of ours lies there.
                if line.contains("stp.") {
                    figures.spills = Some(figures.spills.unwrap_or(0) + 1);
                }
            }
            Self::Honeykrisp => {
                if !line.starts_with("CS shader: ") {
                    return;
                }
                let before = |end: &str| {
                    let text = &line[..line.find(end)?];
                    number(text.rsplit([' ', ':']).next()?)
                };
                figures.registers = before(" gprs");
                figures.code = before(" code size");
                let spills = line.find(" spills:fills").map(|at| &line[..at]);
                figures.spills = spills.and_then(|text| number(text.rsplit(' ').next()?));
            }
        }
    }
}

/// The number at the beginning of a text.
fn number(text: &str) -> Option<u32> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(compiler: Compiler, lines: &[&str]) -> Figures {
        let mut figures = Figures::default();
        for line in lines {
            compiler.read(line, &mut figures);
        }
        figures
    }

    #[test]
    fn each_compilers_words_are_understood() {
        let expected = |registers, spills, lds: Option<u32>, code, dot, matrix| Figures {
            registers: Some(registers),
            spills: Some(spills),
            lds,
            code: Some(code),
            dot,
            matrix,
        };
        let radv = [
            "\tv_dot4_i32_iu8 v1, v2, v3, v1 ; cc16",
            "VGPRs: 48",
            "Spilled SGPRs: 3",
            "Spilled VGPRs: 0",
            "Code size: 6080",
            "LDS size: 7168",
            "Pre-Sched VGPRs: 16",
        ];
        assert_eq!(
            read(Compiler::Radv, &radv),
            expected(48, 0, Some(7168), 6080, true, false)
        );
        let anv = [
            "SIMD16 shader: 1133 instructions. 1 loops. 59420 cycles. 0:0 spills:fills, 128 sends, scheduled with mode none. \
             Promoted 0 constants. GRF registers: 128. Non-SSA regs (after NIR): 70. Compacted 20304 to 19408 bytes (4%)",
            "SIMD32 shader: 2133 instructions. 1 loops. 59420 cycles. 12:14 spills:fills, 128 sends, scheduled with mode none. \
             Promoted 0 constants. GRF registers: 128. Non-SSA regs (after NIR): 70. Compacted 30304 to 29408 bytes (4%)",
        ];
        assert_eq!(
            read(Compiler::Anv, &anv),
            expected(128, 0, None, 19408, false, false)
        );
        let nvk = [
            "  r1 = idp4.i8.i8 r1 r2 r3",
            "Instruction count: 1444",
            "Spills to mem: 0",
            "Num GPRs: 72",
        ];
        assert_eq!(
            read(Compiler::Nvk, &nvk),
            expected(72, 0, None, 1444, true, false)
        );
        let turnip = [
            "MESA: info: ; CL prog 20/1: 478 instr, 211 nops, 267 non-nops, 21 mov, 0 cov, 672 dwords",
            "MESA: info: ; CL prog 20/1: 0 last-baryf, 0 last-helper, 0 half, 24 full, 16 constlen",
        ];
        assert_eq!(
            read(Compiler::Turnip, &turnip),
            expected(24, 0, None, 2688, false, false)
        );
        let agx = [
            "CS shader: 3635 instrs, 8092 alu, 2904 fscib, 8092 ic, 26964 code size, 227 gprs, 512 uniforms, 0 scratch, \
                    448 threads, 1 loops, 2:3 spills:fills, 146 preamble inst",
        ];
        assert_eq!(
            read(Compiler::Honeykrisp, &agx),
            expected(227, 2, None, 26964, false, false)
        );
    }
}
