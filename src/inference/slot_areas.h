// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "inference/request_channel.h"
#include "native/posix/mapped_block.h"

namespace lockstep::inference::detail {

/// The tensors of a channel's slots, as one process or thread maps them. Each lies at a place of
/// its own in the region, with room that grows to the largest tensor it ever had; a slot that is
/// used again costs no system call and no page fault.
///
/// Thread-safety: none; each slot's by whoever has the slot.
/// Owns: the mappings. Tensors over them must go first.
class SlotAreas {
 public:
  static constexpr std::size_t kInput = 0;
  /// The area of a member's output.
  [[nodiscard]] static constexpr std::size_t output_of(std::size_t member) { return member + 1; }

  /// `protects_inputs`: a write to an input ends the process instead of changing what others read.
  /// Without it, this is the program's process, whose later forks shall not keep the memory.
  SlotAreas(std::shared_ptr<RequestChannel> channel, bool protects_inputs);

  /// Copies a tensor of any device, layout and strides into an area.
  /// Throws: `c10::Error` for one that the form cannot hold, `std::system_error` without memory.
  void write(std::size_t slot, std::size_t area, const at::Tensor& tensor, TensorForm& form);
  /// The tensor that lies in an area, in place.
  /// Throws: `std::system_error` when it cannot be mapped.
  [[nodiscard]] at::Tensor read(std::size_t slot, std::size_t area, const TensorForm& form);

 private:
  [[nodiscard]] std::byte* mapped(std::size_t slot, std::size_t area, std::size_t bytes);
  void make_room(std::size_t slot, std::size_t area, std::size_t bytes);

  std::shared_ptr<RequestChannel> channel_;
  bool protects_inputs_;
  std::vector<std::optional<native::MappedBlock>> blocks_;  // by slot and area
};

/// The form of a tensor. Throws: `c10::Error` for one that has no such form.
[[nodiscard]] TensorForm form_of(const at::Tensor& tensor);

}  // namespace lockstep::inference::detail
