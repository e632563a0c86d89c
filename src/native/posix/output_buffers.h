// SPDX-License-Identifier: BSD-3-Clause
#pragma once

namespace lockstep::native {

/// For a child that was just forked: drops the child's copy of what its parent has printed and not
/// yet written (to `stdout`, `stderr`, `std::cout` and their kin), which the parent will write.
/// From now on, `stdout` of the child is written line by line, so that the lines of a child that is
/// killed are not lost.
void drop_inherited_output() noexcept;

/// Writes what this process has printed to these streams since, as an `exit` does.
/// Blocks: as a write to them does.
void write_pending_output() noexcept;

}  // namespace lockstep::native
