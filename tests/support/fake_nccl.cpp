// SPDX-License-Identifier: BSD-3-Clause
#include "support/fake_nccl.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <span>
#include <stdexcept>
#include <utility>

#include "comm/collective/reduce_kernels.h"

namespace lockstep::testing {
namespace {

using native::NcclReduction;
using native::NcclType;

at::ScalarType dtype_of(NcclType type) {
  switch (type) {
    case NcclType::Int8:
      return at::kChar;
    case NcclType::Uint8:
      return at::kByte;
    case NcclType::Int32:
      return at::kInt;
    case NcclType::Int64:
      return at::kLong;
    case NcclType::Float16:
      return at::kHalf;
    case NcclType::Float32:
      return at::kFloat;
    case NcclType::Float64:
      return at::kDouble;
    case NcclType::Bfloat16:
      return at::kBFloat16;
    case NcclType::Float8e4m3:
      return at::kFloat8_e4m3fn;
    case NcclType::Float8e5m2:
      return at::kFloat8_e5m2;
    default:
      throw std::logic_error("a type that Lockstep does not use");
  }
}

ReduceOp reduce_op_of(NcclReduction op, bool has_factor, double factor) {
  if (has_factor) return ReduceOp::PreMulSum(factor);
  switch (op) {
    case NcclReduction::Product:
      return ReduceOp::Product;
    case NcclReduction::Max:
      return ReduceOp::Max;
    case NcclReduction::Min:
      return ReduceOp::Min;
    case NcclReduction::Average:
      return ReduceOp::Avg;
    default:
      return ReduceOp::Sum;
  }
}

}  // namespace

const char* FakeNccl::name_of(Call::Kind kind) {
  static constexpr const char* kNames[] = {"all_reduce", "reduce", "reduce_scatter", "broadcast",
                                           "all_gather", "send",   "receive"};
  return kNames[static_cast<int>(kind)];
}

NcclServices FakeNccl::services(int rank) {
  NcclServices services;
  services.nccl = make_fake_nccl_rank(shared_from_this(), rank);
  services.device = make_fake_device_rank(shared_from_this(), rank);
  services.device_type = c10::kCPU;
  services.watch_interval = std::chrono::milliseconds(5);
  services.grace = std::chrono::milliseconds(100);
  services.end_limit = end_limit_;
  return services;
}

void FakeNccl::set(const std::function<void()>& change) {
  const std::lock_guard lock(mutex_);
  change();
  changed_.notify_all();
}
int FakeNccl::host_waits(int rank) {
  const std::lock_guard lock(mutex_);
  return host_waits_[rank];
}
int FakeNccl::aborts() {
  const std::lock_guard lock(mutex_);
  return aborts_;
}
std::vector<int> FakeNccl::id_makers() {
  const std::lock_guard lock(mutex_);
  return id_makers_;
}
std::string FakeNccl::interfaces() {
  const std::lock_guard lock(mutex_);
  return interfaces_.value_or("");
}
int FakeNccl::blocked() {
  const std::lock_guard lock(mutex_);
  return blocked_;
}
int FakeNccl::splits() {
  const std::lock_guard lock(mutex_);
  return splits_;
}
int FakeNccl::windows_made() {
  const std::lock_guard lock(mutex_);
  return windows_made_;
}
int FakeNccl::looks(int rank) {
  const std::lock_guard lock(mutex_);
  return looks_[rank];
}
int FakeNccl::threads_that_allow_captures() {
  const std::lock_guard lock(mutex_);
  return threads_that_allow_captures_;
}
std::vector<std::string> FakeNccl::symmetric_calls(int rank) {
  const std::lock_guard lock(mutex_);
  return symmetric_calls_[rank];
}
std::vector<std::string> FakeNccl::calls(int rank) {
  const std::lock_guard lock(mutex_);
  return calls_[rank];
}

std::vector<std::string> FakeNccl::complaints() {
  const std::lock_guard lock(mutex_);
  auto all = complaints_;
  for (const auto& comm : comms_) {
    const std::string rank = " of rank " + std::to_string(comm->owner);
    if (comm->is_alive) all.push_back("a communicator" + rank + " is left");
    if (!comm->windows.empty()) all.push_back("a window" + rank + " is left");
    if (!comm->reductions.empty()) all.push_back("a reduction" + rank + " is left");
  }
  const auto streams = std::count_if(streams_.begin(), streams_.end(),
                                     [](const auto& stream) { return stream->is_alive; });
  if (streams != 0) all.push_back(std::to_string(streams) + " streams left");
  if (!memory_.empty()) all.push_back(std::to_string(memory_.size()) + " pieces of memory left");
  if (!events_.empty()) all.push_back(std::to_string(events_.size()) + " events left");
  for (const auto& [rank, depth] : depths_) {
    if (depth != 0) all.push_back("rank " + std::to_string(rank) + " left a group open");
  }
  return all;
}

FakeNccl::Comm* FakeNccl::find(void* handle, const char* call) {
  for (const auto& comm : comms_) {
    if (comm.get() != handle) continue;
    if (comm->is_alive) return comm.get();
    complain(std::string(call) + " on a communicator that is gone");
    return nullptr;
  }
  complain(std::string(call) + " on what is no communicator");
  return nullptr;
}

FakeNccl::Stream* FakeNccl::find_stream(void* handle, const char* call) {
  auto* stream = static_cast<Stream*>(handle);  // none is ever freed
  if (!stream->is_alive) complain(std::string(call) + " on a stream that is gone");
  return stream;
}

void FakeNccl::read_environment() {
  if (interfaces_) return;
  const char* value = std::getenv("NCCL_SOCKET_IFNAME");
  interfaces_ = value == nullptr ? "" : value;
}

void FakeNccl::wait_while(std::unique_lock<std::mutex>& lock, const bool& flag) {
  if (!flag) return;
  ++blocked_;
  changed_.wait_for(lock, kPatience, [&] { return !flag; });
  --blocked_;
}

bool FakeNccl::has_kernels(const Comm& comm) const {
  for (const auto& stream : streams_) {
    for (const Task& task : stream->tasks) {
      if (task.comm == &comm) return true;
    }
  }
  return false;
}

void FakeNccl::run() {
  if (is_paused_) return;
  for (bool has_changed = true; has_changed;) {
    has_changed = false;
    for (const auto& stream : streams_) {
      while (!stream->tasks.empty() && run_front(*stream)) {
        stream->tasks.pop_front();
        has_changed = true;
      }
    }
    if (has_changed) changed_.notify_all();
  }
}

bool FakeNccl::run_front(Stream& stream) {
  Task& task = stream.tasks.front();
  if (task.run) return task.run();
  if (!task.is_posted) post(task);
  match(*task.comm->shared);
  return std::all_of(task.calls.begin(), task.calls.end(),
                     [](const CallPointer& call) { return call->is_done; });
}

void FakeNccl::post(Task& task) {
  task.is_posted = true;
  SharedComm& shared = *task.comm->shared;
  const int rank = task.comm->rank;
  for (const CallPointer& call : task.calls) {
    if (call->kind == Call::Kind::Send) {
      shared.sends[{rank, call->root}].push_back(call);
    } else if (call->kind == Call::Kind::Receive) {
      shared.receives[{call->root, rank}].push_back(call);
    } else {
      shared.collectives[static_cast<std::size_t>(rank)].push_back(call);
    }
  }
}

void FakeNccl::match(SharedComm& shared) {
  while (match_collectives(shared) || match_messages(shared)) {
  }
}

bool FakeNccl::match_collectives(SharedComm& shared) {
  std::vector<CallPointer> calls;
  for (auto& queue : shared.collectives) {
    if (queue.empty()) return false;
    calls.push_back(queue.front());
  }
  for (auto& queue : shared.collectives) queue.pop_front();
  const Call& first = *calls.front();
  for (const CallPointer& call : calls) {
    if (call->kind != first.kind || call->count != first.count || call->type != first.type ||
        call->op != first.op || call->root != first.root || call->factor != first.factor) {
      complain(std::string("ranks called ") + name_of(first.kind) + " of " +
               std::to_string(first.count) + " and " + name_of(call->kind) + " of " +
               std::to_string(call->count));
      call->is_done = true;
      return true;
    }
  }
  const bool is_at_one_place = std::all_of(
      calls.begin(), calls.end(), [&](const auto& call) { return call->place == first.place; });
  if (!is_at_one_place) complain("ranks use different places of symmetric memory");
  execute(calls);
  for (const CallPointer& call : calls) call->is_done = true;
  return true;
}

bool FakeNccl::match_messages(SharedComm& shared) {
  for (auto& [pair, sends] : shared.sends) {
    auto& receives = shared.receives[pair];
    if (sends.empty() || receives.empty()) continue;
    Call& send = *sends.front();
    Call& receive = *receives.front();
    if (send.count != receive.count) complain("a message of another size than is expected");
    std::memcpy(receive.receive, send.send, std::min(send.count, receive.count));
    send.is_done = receive.is_done = true;
    sends.pop_front();
    receives.pop_front();
    return true;
  }
  return false;
}

void FakeNccl::execute(const std::vector<CallPointer>& calls) {
  const Call& first = *calls.front();
  const std::size_t size = c10::elementSize(dtype_of(first.type));
  const std::size_t bytes = first.count * size;
  if (first.kind == Call::Kind::Broadcast) {
    const std::vector<char> data(
        static_cast<const char*>(calls[static_cast<std::size_t>(first.root)]->send),
        static_cast<const char*>(calls[static_cast<std::size_t>(first.root)]->send) + bytes);
    for (const auto& call : calls) std::memcpy(call->receive, data.data(), bytes);
    return;
  }
  if (first.kind == Call::Kind::AllGather) {
    std::vector<char> all(bytes * calls.size());
    for (std::size_t i = 0; i < calls.size(); ++i) {
      std::memcpy(all.data() + i * bytes, calls[i]->send, bytes);
    }
    for (const auto& call : calls) std::memcpy(call->receive, all.data(), all.size());
    return;
  }
  const bool is_scatter = first.kind == Call::Kind::ReduceScatter;
  const std::size_t elements = first.count * (is_scatter ? calls.size() : 1);
  std::vector<std::max_align_t> buffer(elements * size / sizeof(std::max_align_t) + 1);
  auto* result = reinterpret_cast<char*>(buffer.data());
  void* output = result;
  std::vector<const void*> inputs;
  for (const auto& call : calls) inputs.push_back(call->send);
  reduce_ranks(dtype_of(first.type), reduce_op_of(first.op, first.has_factor, first.factor), inputs,
               std::span(&output, 1), elements);
  for (std::size_t i = 0; i < calls.size(); ++i) {
    if (first.kind == Call::Kind::Reduce && static_cast<int>(i) != first.root) continue;
    std::memcpy(calls[i]->receive, result + (is_scatter ? i * bytes : 0), bytes);
  }
}

void FakeNccl::cancel(Comm& comm) {
  SharedComm& shared = *comm.shared;
  for (const auto& stream : streams_) {
    std::erase_if(stream->tasks, [&](const Task& task) { return task.comm == &comm; });
  }
  // The others' kernels hang; none may read what this rank gives back.
  if (static_cast<std::size_t>(comm.rank) < shared.collectives.size()) {
    shared.collectives[static_cast<std::size_t>(comm.rank)].clear();
  }
  for (auto* messages : {&shared.sends, &shared.receives}) {
    for (auto& [pair, queue] : *messages) {
      const bool is_own = (messages == &shared.sends ? pair.first : pair.second) == comm.rank;
      if (is_own) queue.clear();
    }
  }
}

}  // namespace lockstep::testing
