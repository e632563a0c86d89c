// SPDX-License-Identifier: BSD-3-Clause
#pragma once

namespace lockstep::native {

/// Takes a descriptor away from the children that the program forks while this object lives: a
/// connection ends with the process that made it, even if such a child lives on. The descriptor's
/// number stays taken in the child and leads to /dev/null, so that a copy of the owner closes
/// nothing else there.
///
/// It works for `fork`, by a handler of `pthread_atfork`; a program that is started afterwards is
/// the business of FD_CLOEXEC. A child keeps the descriptor if it cannot open /dev/null.
///
/// Thread-safety: objects may be made and destroyed in any threads.
class CloseOnFork {
 public:
  /// `descriptor` stays open until this object is destroyed.
  explicit CloseOnFork(int descriptor);
  ~CloseOnFork();
  CloseOnFork(const CloseOnFork&) = delete;
  CloseOnFork& operator=(const CloseOnFork&) = delete;

 private:
  int descriptor_;
};

}  // namespace lockstep::native
