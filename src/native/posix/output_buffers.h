// SPDX-License-Identifier: BSD-3-Clause
#pragma once

namespace lockstep::native {

/// In a child that was just forked: what its parent has printed and not yet written (`stdout`,
/// `stderr`, `std::cout` and its kin) is the parent's to write; the child's copy of it is dropped.
/// And from now on what the child prints to `stdout` is written line by line, wherever it goes: a
/// child that is killed has said what it said.
void drop_inherited_output() noexcept;

/// What this process has printed to them since is written, as at an `exit`.
/// Blocks: as a write to them does.
void write_pending_output() noexcept;

}  // namespace lockstep::native
