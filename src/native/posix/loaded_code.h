// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

namespace lockstep::native {

/// The program and the libraries that this process had loaded at one moment: what a process that
/// was forked then has, too.
///
/// Thread-safety: any thread.
class LoadedCode {
 public:
  /// As it is now.
  LoadedCode();

  /// Whether what lies there now is code that lay there then.
  [[nodiscard]] bool has(const void* address);
  /// File of the program or library to which an address belongs now; empty where there is none.
  [[nodiscard]] static std::string file_of(const void* address);

 private:
  /// A part of memory that is executed.
  struct Part {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
    std::string file;

    bool operator==(const Part&) const = default;
  };

  [[nodiscard]] static std::vector<Part> parts();
  /// Changes whenever something is loaded or unloaded.
  [[nodiscard]] static std::uint64_t changes();
  [[nodiscard]] static const Part* part_around(const std::vector<Part>& parts, const void* address);

  const std::vector<Part> then_;
  std::mutex mutex_;                       // guards what follows
  std::uint64_t seen_changes_ = 0;         // for which the next is right
  std::unordered_set<const void*> known_;  // that it has
};

/// Whether an address lies in the stack of the calling thread.
[[nodiscard]] bool is_on_this_stack(std::uintptr_t address);

}  // namespace lockstep::native
