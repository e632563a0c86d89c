// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/loaded_code.h"

#include <link.h>
#include <pthread.h>

#include <algorithm>
#include <array>
#include <cstddef>

namespace lockstep::native {
namespace {

struct StackBounds {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;

  static StackBounds of_this_thread() {
    StackBounds bounds;
    pthread_attr_t attributes;
    if (::pthread_getattr_np(::pthread_self(), &attributes) != 0) return bounds;
    void* lowest = nullptr;
    std::size_t size = 0;
    if (::pthread_attr_getstack(&attributes, &lowest, &size) == 0) {
      bounds.begin = reinterpret_cast<std::uintptr_t>(lowest);
      bounds.end = bounds.begin + size;
    }
    ::pthread_attr_destroy(&attributes);
    return bounds;
  }
};

}  // namespace

LoadedCode::LoadedCode() : then_(parts()), seen_changes_(changes()) {}

std::vector<LoadedCode::Part> LoadedCode::parts() {
  std::vector<Part> found;
  ::dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* data) {
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& header = info->dlpi_phdr[i];
          if (header.p_type != PT_LOAD || (header.p_flags & PF_X) == 0) continue;
          const auto begin = static_cast<std::uintptr_t>(info->dlpi_addr + header.p_vaddr);
          static_cast<std::vector<Part>*>(data)->push_back(
              {begin, begin + header.p_memsz, info->dlpi_name});
        }
        return 0;
      },
      &found);
  return found;
}

std::uint64_t LoadedCode::changes() {
  std::uint64_t count = 0;
  ::dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* data) {
        *static_cast<std::uint64_t*>(data) = info->dlpi_adds + info->dlpi_subs;
        return 1;  // the first says it
      },
      &count);
  return count;
}

const LoadedCode::Part* LoadedCode::part_around(const std::vector<Part>& parts,
                                                const void* address) {
  const auto place = reinterpret_cast<std::uintptr_t>(address);
  const auto found = std::find_if(parts.begin(), parts.end(), [place](const Part& part) {
    return part.begin <= place && place < part.end;
  });
  return found == parts.end() ? nullptr : &*found;
}

bool LoadedCode::has(const void* address) {
  const std::lock_guard guard(mutex_);
  const auto now = changes();
  if (now != seen_changes_) {
    known_.clear();
    seen_changes_ = now;
  }
  if (known_.contains(address)) return true;
  const auto loaded = parts();
  const auto* part = part_around(loaded, address);
  if (part == nullptr || std::find(then_.begin(), then_.end(), *part) == then_.end()) return false;
  known_.insert(address);
  return true;
}

std::string LoadedCode::file_of(const void* address) {
  const auto loaded = parts();
  const auto* part = part_around(loaded, address);
  if (part == nullptr) return {};
  return part->file.empty() ? "the program" : part->file;
}

bool is_on_this_stack(std::uintptr_t address) {
  thread_local const StackBounds bounds = StackBounds::of_this_thread();
  return bounds.begin <= address && address < bounds.end;
}

}  // namespace lockstep::native
