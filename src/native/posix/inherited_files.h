// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <span>

namespace lockstep::native {

/// Closes every descriptor that this process inherited and that cannot belong to a dataset:
/// sockets, pipes, devices, anonymous memory, epoll and its kin. Standard streams, ordinary files
/// and `keep` stay open.
void close_inherited_descriptors(std::span<const int> keep);

/// After a fork, both processes share the position and the locks of each open file. This call opens
/// readable files and folders a second time, under the same numbers and at the same position, so
/// that no other process moves the position of this one. Files that are open only for writing or
/// for appending keep the shared position. A file that may not be opened again is closed: whoever
/// reads it gets an error instead of wrong bytes. `keep` stays as it is.
void take_own_positions(std::span<const int> keep);

/// After this call no inherited descriptor holds a lock (`flock`, open file description locks) or a
/// lease, so that these end with the process that took them. Files with a lock or a lease are
/// opened again, or closed.
void leave_inherited_locks(std::span<const int> keep);

}  // namespace lockstep::native
