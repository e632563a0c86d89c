// SPDX-License-Identifier: BSD-3-Clause
#include "training/checkpoint/snapshot.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/detach.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>
#include <lockstep/core/logging.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <span>
#include <utility>

#include "files/digest.h"
#include "native/posix/huge_pages.h"
#include "native/posix/streaming_copy.h"
#include "training/safetensors/index_writer.h"

namespace lockstep::training {
namespace {

constexpr std::int64_t kAlignment = 64;

/// What a tensor takes in the kept memory.
std::int64_t room_for(const at::Tensor& tensor) {
  const auto bytes = static_cast<std::int64_t>(tensor.nbytes());
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

/// Which rank writes which tensors of all parts that all ranks have.
class Shares {
 public:
  explicit Shares(std::int64_t world_size) : bytes_(static_cast<std::size_t>(world_size)) {}

  /// The rank with the least bytes so far. The same on all ranks, since they have the same tensors.
  std::int64_t place(std::size_t bytes, bool is_of_rank_0) {
    const auto owner =
        is_of_rank_0 ? bytes_.begin() : std::min_element(bytes_.begin(), bytes_.end());
    *owner += bytes;
    return owner - bytes_.begin();
  }

 private:
  std::vector<std::size_t> bytes_;
};

std::string numbered(std::int64_t rank, std::int64_t world_size) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%05lld-of-%05lld", static_cast<long long>(rank + 1),
                static_cast<long long>(world_size));
  return text.data();
}

void add_to(files::Digest& plan, const std::string& text) {
  plan.add(std::as_bytes(std::span(text.c_str(), text.size() + 1)));
}

void check_texts(const std::string& part, const PartState& state) {
  for (const auto* name : {"format", kNothing}) {
    TORCH_CHECK(!state.texts.contains(name), "the state of '", part, "' has a text '", name,
                "', a name that files keep for themselves");
  }
}

/// Divides the tensors of a part that all ranks have. Adds to `plan` what all ranks must agree on.
void divide(const std::string& part, PartState state, Shares& shares, std::int64_t rank,
            std::int64_t world_size, Snapshot& snapshot, files::Digest& plan) {
  if (world_size == 1) {
    snapshot.files[whole_file(part)] = {std::move(state.tensors), std::move(state.texts),
                                        std::move(state.until_step)};
    return;
  }
  IndexWriter entries;
  for (auto& [name, tensor] : state.tensors) {
    const std::int64_t owner = shares.place(tensor.nbytes(), state.of_rank_0.contains(name));
    const std::string file = shard_file(part, owner, world_size);
    add_to(plan, file + "/" + name + " " + c10::toString(tensor.scalar_type()));
    plan.add(std::as_bytes(std::span(tensor.sizes().data(), tensor.sizes().size())));
    entries.add(name, tensor.nbytes(), file);
    if (owner != rank) continue;
    snapshot.files[file].tensors.emplace(name, std::move(tensor));
    if (state.until_step.contains(name)) snapshot.files[file].until_step.insert(name);
  }
  if (rank != 0) return;
  snapshot.indexes[index_file(part)] = entries.text();
  // Texts of a part with tensors lie beside all other texts: the first rank need not own a tensor.
  for (auto& [name, text] : state.texts) {
    snapshot.files[kValuesFile].texts.emplace(value_key(part, name), std::move(text));
  }
}

}  // namespace

std::string index_file(const std::string& part) {
  return part + ".safetensors.index.json";
}

std::string whole_file(const std::string& part) {
  return part + ".safetensors";
}

std::string shard_file(const std::string& part, std::int64_t rank, std::int64_t world_size) {
  return part + "-" + numbered(rank, world_size) + ".safetensors";
}

std::string rank_file(const std::string& part, std::int64_t rank, std::int64_t world_size) {
  return part + ".rank-" + numbered(rank, world_size) + ".safetensors";
}

std::string value_key(const std::string& part, const std::string& text) {
  return part + "/" + text;
}

Snapshot SnapshotMemory::take(const std::vector<detail::TrainingPart>& parts, std::int64_t rank,
                              std::int64_t world_size, bool is_deferred) {
  const at::NoGradGuard no_gradients;
  Snapshot snapshot;
  Shares shares(world_size);
  files::Digest plan;
  for (const auto& part : parts) {
    PartState state = part.state();
    check_texts(part.name, state);
    add_to(plan, part.name);
    if (part.is_of_rank) {
      if (state.tensors.empty() && state.texts.empty()) state.texts.emplace(kNothing, "");
      snapshot.files[rank_file(part.name, rank, world_size)] = {
          std::move(state.tensors), std::move(state.texts), std::move(state.until_step)};
    } else if (!state.tensors.empty()) {
      divide(part.name, std::move(state), shares, rank, world_size, snapshot, plan);
    } else if (rank == 0) {
      if (state.texts.empty()) state.texts.emplace(kNothing, "");
      for (auto& [name, text] : state.texts) {
        snapshot.files[kValuesFile].texts.emplace(value_key(part.name, name), std::move(text));
      }
    }
  }
  snapshot.plan = plan.text();
  copy(snapshot, is_deferred);
  return snapshot;
}

std::uint64_t DeferredReads::release() {
  const std::uint64_t copied = tensors.release();
  copies.order_before_current_streams();
  return copied;
}

void KeptMemory::reset(std::int64_t bytes) {
  used_ = 0;
  // Not while somebody uses it: a device that did not answer in time may still write there.
  const bool is_free = block_.defined() && block_.storage().use_count() == 1;
  if (bytes == 0 || (is_free && block_.numel() >= bytes)) return;
  block_ = at::Tensor();
  const auto options = at::TensorOptions().dtype(at::kByte);
  if (is_pinned_) {
    try {
      block_ = at::empty({bytes}, options.pinned_memory(true));
      return;
    } catch (const c10::Error& error) {
      logging::warning(
          "checkpoints: no pinned memory can be had, so a save waits for its copies: " +
          std::string(error.what_without_backtrace()));
    }
  }
  block_ = at::empty({bytes}, options);
  native::prefer_huge_pages(block_.mutable_data_ptr(), block_.nbytes());
}

at::Tensor KeptMemory::take(const at::Tensor& for_tensor) {
  at::Tensor room = block_.narrow(0, used_, static_cast<std::int64_t>(for_tensor.nbytes()));
  used_ += room_for(for_tensor);
  return room;
}

void SnapshotMemory::copy(Snapshot& snapshot, bool is_deferred) {
  std::int64_t bytes = 0;
  std::int64_t device_bytes = 0;
  for (const auto& [name, file] : snapshot.files) {
    for (const auto& [key, tensor] : file.tensors) {
      (tensor.is_cpu() ? bytes : device_bytes) += room_for(tensor);
    }
  }
  memory_.reset(bytes);
  pinned_memory_.reset(device_bytes);
  snapshot.copies = std::make_shared<DeviceCopies>();
  const auto deferred = std::make_shared<DeferredReads>();
  for (auto& [name, file] : snapshot.files) {
    for (auto& [key, tensor] : file.tensors) {
      const bool can_wait = is_deferred && file.until_step.contains(key);
      // One of its own, whoever else has the same values: what is deferred is known by its address.
      tensor = at::detach(tensor);
      if (tensor.nbytes() == 0) continue;
      const at::Tensor room = (tensor.is_cpu() ? memory_ : pinned_memory_).take(tensor);
      if (can_wait && DeferredTensors::can_read(tensor)) {
        deferred->tensors.add(tensor, room);
        continue;
      }
      at::Tensor target = room.view(tensor.scalar_type()).view(tensor.sizes());
      if (DeferredTensors::can_read(tensor)) {
        native::streaming_copy(room.mutable_data_ptr(), tensor.const_data_ptr(), tensor.nbytes());
      } else if (tensor.is_cpu()) {
        target.copy_(tensor);
      } else {
        (can_wait ? deferred->copies : *snapshot.copies).enqueue(tensor, target);
      }
      tensor = std::move(target);
    }
  }
  snapshot.copies->end();
  snapshot.copies->order_before_current_streams();
  deferred->copies.end();
  if (is_deferred) snapshot.deferred = deferred;
}

}  // namespace lockstep::training
