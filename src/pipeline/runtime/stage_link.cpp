// SPDX-License-Identifier: BSD-3-Clause
#include "pipeline/runtime/stage_link.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "comm/group/group_core.h"

namespace lockstep::pipeline {
namespace {

/// For a rank that waits in two groups at once and can sleep in neither. Far below the time of an
/// action, and long enough to leave the core to others.
class Pauses {
 public:
  void pause() {
    constexpr int kSpins = 100;
    if (++count_ < kSpins) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }

 private:
  int count_ = 0;
};

/// Throws what failed.
bool has_ended(Work& work) {
  if (!work.is_completed()) return false;
  work.wait();
  return true;
}

std::vector<std::int64_t> words_in(const at::Tensor& tensor) {
  const auto* begin = tensor.const_data_ptr<std::int64_t>();
  return {begin, begin + tensor.numel()};
}

}  // namespace

void StageLink::send_tensor(int to, at::Tensor tensor) {
  Work work = group_->send(tensor, to);
  sent_.push_back({std::move(tensor), std::move(work)});
}

void StageLink::make_slots(std::int64_t slots) {
  const at::Tensor largest =
      at::full({1}, static_cast<std::int64_t>(largest_parcel_), at::TensorOptions(at::kLong));
  group_->all_reduce(largest, ReduceOp::Max).wait();
  const auto bytes = *largest.const_data_ptr<std::int64_t>();
  if (bytes == 0 || slots == 0) return;
  slots_ = ActivationSlots::make(*group_, slots, static_cast<std::size_t>(bytes));
}

void StageLink::send(int to, Parcel parcel) {
  largest_parcel_ = std::max(largest_parcel_, ActivationSlots::bytes_of(parcel.tensors));
  if (slots_) parcel.slot = slots_->try_put(parcel.tensors);
  if (parcel.slot) ++slots_filled_;
  const auto words = describe_parcel(parcel);
  const at::Tensor description = at::tensor(words, at::kLong);
  send_tensor(to, description.slice(0, 0, kHeaderWords));
  if (words.size() > kHeaderWords) send_tensor(to, description.slice(0, kHeaderWords));
  for (const at::Tensor& tensor : parcel.tensors) {
    if (!tensor.defined() || tensor.numel() == 0) continue;
    sent_bytes_ += tensor.nbytes();
    if (!parcel.slot) send_tensor(to, tensor.resolve_conj().resolve_neg().contiguous());
  }
}

StageLink::Received StageLink::receive(int from, at::Tensor tensor) {
  Work work = group_->recv(tensor, from);
  return {std::move(tensor), std::move(work)};
}

void StageLink::post(int from, c10::Device device) {
  incoming_[from].push_back({device});
  advance(from);
}

bool StageLink::advance(int from, Incoming& incoming) {
  if (incoming.parcel) return true;
  if (!incoming.header) {
    incoming.header =
        receive(from, at::empty({static_cast<std::int64_t>(kHeaderWords)}, at::kLong));
  }
  if (!has_ended(incoming.header->work)) return false;
  auto words = words_in(incoming.header->tensor);
  const std::int64_t all = words_of(words.data(), from);
  if (all > static_cast<std::int64_t>(kHeaderWords)) {
    if (!incoming.rest) {
      incoming.rest =
          receive(from, at::empty({all - static_cast<std::int64_t>(kHeaderWords)}, at::kLong));
    }
    if (!has_ended(incoming.rest->work)) return false;
    const auto more = words_in(incoming.rest->tensor);
    words.insert(words.end(), more.begin(), more.end());
  }
  std::optional<ActivationSlots::Reader> reader;
  const auto make = [&](const std::optional<std::int64_t>& slot, at::IntArrayRef sizes,
                        at::ScalarType dtype) {
    if (!slot) return at::empty(sizes, at::TensorOptions().dtype(dtype).device(incoming.device));
    if (!reader) reader.emplace(slots_, from, *slot);
    return reader->next(sizes, dtype).to(incoming.device);
  };
  incoming.parcel = make_parcel(words, make, from);
  if (incoming.parcel->slot) return true;
  for (const at::Tensor& tensor : incoming.parcel->tensors) {
    if (tensor.defined() && tensor.numel() > 0) incoming.tensors.push_back(receive(from, tensor));
  }
  return true;
}

void StageLink::advance(int from) {
  for (Incoming& incoming : incoming_[from]) {
    if (!advance(from, incoming)) return;
  }
}

Work* StageLink::missing(Incoming& incoming) {
  if (!incoming.parcel) return incoming.rest ? &incoming.rest->work : &incoming.header->work;
  for (Received& received : incoming.tensors) {
    if (!has_ended(received.work)) return &received.work;
  }
  return nullptr;
}

Parcel StageLink::take(int from, StageLink& other) {
  auto& queue = incoming_[from];
  TORCH_CHECK(!queue.empty(), "pipeline: nothing is to come from rank ", from);
  for (Pauses pauses;;) {
    advance(from);
    Work* const work = missing(queue.front());
    if (work == nullptr) break;
    // In one group alone, this rank can sleep until the message comes.
    if (other.has_unsent()) {
      pauses.pause();
    } else {
      work->wait();
    }
  }
  Parcel parcel = std::move(*queue.front().parcel);
  queue.pop_front();
  advance(from);
  return parcel;
}

bool StageLink::has_unsent() {
  while (!sent_.empty() && has_ended(sent_.front().work)) sent_.pop_front();
  return !sent_.empty();
}

void StageLink::progress() {
  for (auto& [from, queue] : incoming_) advance(from);
  static_cast<void>(has_unsent());
}

bool StageLink::sends_in_calls_alone() {
  if (!has_unsent()) return false;
  // The others have threads or streams. MPI may not let a second thread in.
  const Backend backend = group_->backend();
  return backend == Backend::SharedMemory || backend == Backend::Hierarchical;
}

void StageLink::finish_sends(StageLink& one, StageLink& other) {
  for (Pauses pauses;;) {
    const bool is_one_busy = one.has_unsent();
    const bool is_other_busy = other.has_unsent();
    if (!is_one_busy && !is_other_busy) return;
    if (is_one_busy && is_other_busy) {
      pauses.pause();
    } else {
      (is_one_busy ? one : other).sent_.front().work.wait();
    }
  }
}

void StageLink::give_up(const std::string& reason) noexcept {
  group_->core().give_up(reason, "pipeline");
}

}  // namespace lockstep::pipeline
