// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <new>
#include <type_traits>
#include <utility>

namespace lockstep::native {

/// Remembers in which process it was made. A copy of an object that a `fork` of the program's own
/// took along must not end what belongs to the process that built it.
///
/// Asking costs no system call: a handler of `pthread_atfork` counts.
///
/// Thread-safety: a value.
class OwningProcess {
 public:
  OwningProcess() noexcept : generation_(generation()) {}
  [[nodiscard]] bool is_current() const noexcept { return generation_ == generation(); }

 private:
  /// How many forks lie between this process and the one that asked first.
  [[nodiscard]] static std::uint64_t generation() noexcept;

  std::uint64_t generation_;
};

/// Leaks an object whose destructor would wait for threads, or end what belongs to others.
template <typename T>
void leave_alone(T&& thing) noexcept {
  static_assert(!std::is_lvalue_reference_v<T>, "moved in");
  [[maybe_unused]] auto* kept = new (std::nothrow) T(std::forward<T>(thing));
}

}  // namespace lockstep::native
