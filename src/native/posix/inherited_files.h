// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <span>

namespace lockstep::native {

/// Closes every descriptor that this process inherited and that cannot belong to a dataset:
/// sockets, pipes, devices, anonymous memory, epoll and its kin. Standard streams, ordinary files
/// and `keep` stay open.
void close_inherited_descriptors(std::span<const int> keep);

/// A fork copies descriptors, not what is behind them: position, and locks, are then those of both
/// processes. After this call files that can be read (ordinary ones, and folders) are open a second
/// time under the same numbers, at the position at which they were, so that nobody moves this
/// process's. Those that are open for writing alone, or for appending, keep the position that all
/// share. A file that may not be opened again is closed: an error of whoever reads it, where it
/// would have been wrong bytes. `keep` is left alone.
void take_own_positions(std::span<const int> keep);

/// And after this one no inherited descriptor holds a lock (`flock`, open file description locks)
/// or a lease: these end with the process that took them, and not with its children. Files that
/// carry one are opened again, or closed.
void leave_inherited_locks(std::span<const int> keep);

}  // namespace lockstep::native
