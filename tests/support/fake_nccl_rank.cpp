// SPDX-License-Identifier: BSD-3-Clause
// NCCL as one rank calls it.
#include <c10/util/BFloat16.h>
#include <c10/util/Float8_e4m3fn.h>
#include <c10/util/Float8_e5m2.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "support/fake_nccl.h"

namespace lockstep::testing {
namespace {

using native::NcclReduction;
using native::NcclResult;
using native::NcclType;

template <typename T>
double read_as(const void* scalar) {
  T value;
  std::memcpy(&value, scalar, sizeof(value));
  return static_cast<double>(static_cast<float>(value));
}

double factor_from(const void* scalar, NcclType type) {
  switch (type) {
    case NcclType::Float16:
      return read_as<c10::Half>(scalar);
    case NcclType::Bfloat16:
      return read_as<c10::BFloat16>(scalar);
    case NcclType::Float8e4m3:
      return read_as<c10::Float8_e4m3fn>(scalar);
    case NcclType::Float8e5m2:
      return read_as<c10::Float8_e5m2>(scalar);
    case NcclType::Float32:
      return read_as<float>(scalar);
    default: {
      double value = 0;
      std::memcpy(&value, scalar, sizeof(value));
      return value;
    }
  }
}

}  // namespace

class FakeNcclRank final : public native::NcclApi {
 public:
  using Call = FakeNccl::Call;
  FakeNcclRank(std::shared_ptr<FakeNccl> world, int rank) : world_(std::move(world)), rank_(rank) {}

  NcclResult unique_id(native::NcclUniqueId& id) override {
    const std::lock_guard lock(world_->mutex_);
    if (world_->fails_unique_id_) return NcclResult::SystemError;
    world_->read_environment();
    const std::uint64_t number = world_->next_id_++;
    world_->id_makers_.push_back(rank_);
    std::memcpy(id.data(), &number, sizeof(number));
    return NcclResult::Success;
  }

  NcclResult comm_init(Comm* comm, int world_size, const native::NcclUniqueId& id,
                       int rank) override {
    const std::lock_guard lock(world_->mutex_);
    if (world_->fails_init_.contains(rank_)) return NcclResult::SystemError;
    std::uint64_t number = 0;
    std::memcpy(&number, id.data(), sizeof(number));
    if (number == 0 || number >= world_->next_id_) world_->complain("an id that no rank has made");
    auto& shared = world_->shared_comms_[number];
    if (!shared) shared = make_shared_comm(world_size);
    *comm = join(shared, rank);
    return NcclResult::InProgress;
  }

  NcclResult comm_split(Comm parent, int color, int key, Comm* child) override {
    const std::lock_guard lock(world_->mutex_);
    auto* comm = ready(parent, "comm_split");
    if (comm == nullptr) return NcclResult::InvalidUsage;
    ++world_->splits_;
    const auto shared = comm->shared;
    const int number = shared->splits[static_cast<std::size_t>(comm->rank)]++;
    *child = nullptr;
    FakeNccl::Comm* made = nullptr;
    auto have_all_come = [shared, number] {
      return std::all_of(shared->splits.begin(), shared->splits.end(),
                         [number](int count) { return count > number; });
    };
    if (color >= 0) {
      auto& part = shared->parts[{number, color}];
      if (!part) part = make_shared_comm(0);
      ++part->world_size;
      part->collectives.emplace_back();
      part->windows.push_back(0);
      part->splits.push_back(0);
      // The program makes keys ranks: 0, 1, ... without gaps.
      made = join(part, key);
      const auto is_met = made->is_over;
      made->is_over = [=] { return have_all_come() && is_met(); };
    }
    // As NCCL, which writes from a thread of its own when the part is made.
    comm->is_over = [=] {
      if (have_all_come()) *child = made;
      return have_all_come();
    };
    comm->polls_left = 2;
    return NcclResult::InProgress;
  }

  NcclResult comm_finalize(Comm handle) override {
    const std::lock_guard lock(world_->mutex_);
    auto* comm = ready(handle, "comm_finalize");
    if (comm == nullptr) return NcclResult::InvalidUsage;
    if (!comm->windows.empty()) world_->complain("finalize with windows");
    comm->is_finalized = true;
    comm->is_over = [this, comm] { return !world_->has_kernels(*comm); };
    comm->polls_left = 2;
    return NcclResult::InProgress;
  }
  NcclResult comm_destroy(Comm handle) override {
    const std::lock_guard lock(world_->mutex_);
    auto* comm = ready(handle, "comm_destroy");
    if (comm == nullptr) return NcclResult::InvalidUsage;
    if (!comm->is_finalized) world_->complain("destroyed before it was finalized");
    comm->is_alive = false;
    return NcclResult::Success;
  }
  NcclResult comm_abort(Comm handle) override {
    std::unique_lock lock(world_->mutex_);
    auto* comm = world_->find(handle, "comm_abort");
    if (comm == nullptr) return NcclResult::InvalidUsage;
    if (comm->is_lent) world_->complain("an abort during another call");
    ++world_->aborts_;
    comm->is_alive = false;
    comm->is_aborting = true;
    world_->wait_while(lock, world_->are_aborts_blocked_);
    comm->is_aborting = false;
    comm->windows.clear();
    comm->reductions.clear();
    world_->cancel(*comm);
    world_->run();
    return NcclResult::Success;
  }

  NcclResult async_error(Comm handle, NcclResult* state) override {
    const std::lock_guard lock(world_->mutex_);
    auto* comm = world_->find(handle, "async_error");
    if (comm == nullptr) return NcclResult::InvalidUsage;
    if (comm->is_lent) world_->complain("async_error during another call");
    ++world_->looks_[rank_];
    world_->run();
    *state = comm->error;
    if (*state == NcclResult::Success && !is_idle(*comm)) *state = NcclResult::InProgress;
    return NcclResult::Success;
  }
  std::string last_error(Comm) override { return "the fake was told to fail"; }

  NcclResult memory_allocate(void** data, std::size_t bytes) override {
    const std::lock_guard lock(world_->mutex_);
    if (world_->fails_memory_.contains(rank_)) return NcclResult::UnhandledCudaError;
    *data = std::malloc(bytes);
    std::memset(*data, 0xff, bytes);
    world_->memory_[*data] = bytes;
    return NcclResult::Success;
  }
  NcclResult memory_free(void* data) override {
    const std::lock_guard lock(world_->mutex_);
    if (world_->memory_.erase(data) == 0) world_->complain("freed what was not allocated");
    for (const auto& [window, place] : windows_) {
      if (place.data != data) continue;
      for (const auto& comm : world_->comms_) {
        if (comm->windows.contains(window)) world_->complain("freed under a window");
      }
    }
    std::free(data);
    return NcclResult::Success;
  }

  NcclResult window_register(Comm handle, void* data, std::size_t bytes, bool is_symmetric,
                             native::NcclWindow* window) override {
    const std::lock_guard lock(world_->mutex_);
    auto* comm = ready(handle, "window_register");
    if (comm == nullptr) return NcclResult::InvalidUsage;
    if (world_->fails_windows_.contains(rank_)) return NcclResult::SystemError;
    ++world_->windows_made_;
    const auto shared = comm->shared;
    const int number = ++shared->windows[static_cast<std::size_t>(comm->rank)];
    auto* made = reinterpret_cast<native::NcclWindow>(world_->next_window_++);
    windows_[made] = {static_cast<char*>(data), bytes,
                      is_symmetric && !world_->denies_symmetric_.contains(rank_)};
    comm->windows.insert(made);
    comm->polls_left = 1;
    comm->is_over = [=] {
      const bool is_known = std::all_of(shared->windows.begin(), shared->windows.end(),
                                        [number](int count) { return count >= number; });
      if (is_known) *window = made;
      return is_known;
    };
    return NcclResult::InProgress;
  }
  NcclResult window_deregister(Comm handle, native::NcclWindow window) override {
    std::unique_lock lock(world_->mutex_);
    auto* comm = ready(handle, "window_deregister");
    if (comm == nullptr) return NcclResult::InvalidUsage;
    if (world_->has_kernels(*comm)) world_->complain("a window deregistered under a kernel");
    comm->is_lent = true;
    world_->wait_while(lock, world_->are_windows_blocked_);
    comm->is_lent = false;
    if (comm->windows.erase(window) == 0) world_->complain("deregistered what is no window");
    return NcclResult::Success;
  }

  NcclResult window_is_symmetric(Comm handle, native::NcclWindow window,
                                 bool* is_symmetric) override {
    const std::lock_guard lock(world_->mutex_);
    auto* comm = ready(handle, "window_is_symmetric");
    if (comm == nullptr || !comm->windows.contains(window)) return NcclResult::InvalidUsage;
    *is_symmetric = windows_[window].is_symmetric;
    return NcclResult::Success;
  }

  NcclResult reduction_create(NcclReduction* op, const void* scalar, NcclType type,
                              Comm handle) override {
    const std::lock_guard lock(world_->mutex_);
    auto* comm = ready(handle, "reduction_create");
    if (comm == nullptr) return NcclResult::InvalidUsage;
    const int number = world_->next_reduction_++;
    world_->factors_[number] = factor_from(scalar, type);
    *op = static_cast<NcclReduction>(number);
    comm->reductions.insert(*op);
    return NcclResult::Success;
  }
  NcclResult reduction_destroy(NcclReduction op, Comm handle) override {
    const std::lock_guard lock(world_->mutex_);
    auto* comm = world_->find(handle, "reduction_destroy");
    if (comm == nullptr) return NcclResult::InvalidUsage;
    if (comm->reductions.erase(op) == 0) world_->complain("destroyed what is no reduction");
    return NcclResult::Success;
  }

  NcclResult group_start() override {
    const std::lock_guard lock(world_->mutex_);
    ++world_->depths_[rank_];
    return NcclResult::Success;
  }
  NcclResult group_end() override;

  NcclResult all_reduce(const void* send, void* receive, std::size_t count, NcclType type,
                        NcclReduction op, Comm comm, native::DeviceStream stream) override {
    return add({Call::Kind::AllReduce, send, receive, count, type, op}, comm, stream);
  }
  NcclResult reduce(const void* send, void* receive, std::size_t count, NcclType type,
                    NcclReduction op, int root, Comm comm, native::DeviceStream stream) override {
    Call call{Call::Kind::Reduce, send, receive, count, type, op};
    call.root = root;
    return add(call, comm, stream);
  }
  NcclResult reduce_scatter(const void* send, void* receive, std::size_t receive_count,
                            NcclType type, NcclReduction op, Comm comm,
                            native::DeviceStream stream) override {
    return add({Call::Kind::ReduceScatter, send, receive, receive_count, type, op}, comm, stream);
  }
  NcclResult broadcast(const void* send, void* receive, std::size_t count, NcclType type, int root,
                       Comm comm, native::DeviceStream stream) override {
    Call call{Call::Kind::Broadcast, send, receive, count, type};
    call.root = root;
    return add(call, comm, stream);
  }
  NcclResult all_gather(const void* send, void* receive, std::size_t send_count, NcclType type,
                        Comm comm, native::DeviceStream stream) override {
    return add({Call::Kind::AllGather, send, receive, send_count, type}, comm, stream);
  }
  NcclResult send(const void* data, std::size_t count, NcclType type, int peer, Comm comm,
                  native::DeviceStream stream) override {
    Call call{Call::Kind::Send, data, nullptr, count, type};
    call.root = peer;
    return add(call, comm, stream);
  }
  NcclResult receive(void* data, std::size_t count, NcclType type, int peer, Comm comm,
                     native::DeviceStream stream) override {
    Call call{Call::Kind::Receive, nullptr, data, count, type};
    call.root = peer;
    return add(call, comm, stream);
  }

 private:
  static std::shared_ptr<FakeNccl::SharedComm> make_shared_comm(int world_size) {
    auto shared = std::make_shared<FakeNccl::SharedComm>();
    const auto ranks = static_cast<std::size_t>(world_size);
    shared->world_size = world_size;
    shared->collectives.resize(ranks);
    shared->windows.resize(ranks);
    shared->splits.resize(ranks);
    return shared;
  }
  FakeNccl::Comm* join(const std::shared_ptr<FakeNccl::SharedComm>& shared, int rank) {
    auto comm = std::make_unique<FakeNccl::Comm>();
    comm->shared = shared;
    comm->owner = rank_;
    comm->rank = rank;
    comm->polls_left = 3;
    comm->is_over = [shared] { return shared->joined >= shared->world_size; };
    ++shared->joined;
    world_->comms_.push_back(std::move(comm));
    return world_->comms_.back().get();
  }
  /// Each call brings what is in progress nearer to its end.
  static bool is_idle(FakeNccl::Comm& comm) {
    if (comm.is_over && !comm.is_over()) return false;
    if (comm.polls_left > 0 && --comm.polls_left > 0) return false;
    comm.is_over = nullptr;  // it writes no more
    return true;
  }
  FakeNccl::Comm* ready(Comm handle, const char* call) {
    auto* comm = world_->find(handle, call);
    if (comm == nullptr) return nullptr;
    if (comm->is_lent) world_->complain(std::string(call) + " during another call");
    if (comm->polls_left > 0) {
      world_->complain(std::string(call) + " while something is in progress");
    }
    return comm;
  }
  NcclResult add(Call call, Comm handle, native::DeviceStream stream) {
    const std::lock_guard lock(world_->mutex_);
    auto* comm = ready(handle, "a collective");
    if (comm == nullptr) return NcclResult::InvalidUsage;
    if (world_->depths_[rank_] == 0) world_->complain("a call outside a group");
    if (const auto found = world_->factors_.find(static_cast<int>(call.op));
        found != world_->factors_.end()) {
      if (!comm->reductions.contains(call.op)) world_->complain("a reduction that is gone");
      call.has_factor = true;
      call.factor = found->second;
      call.op = NcclReduction::Sum;
    }
    if (call.send == nullptr && call.receive == nullptr) world_->complain("no data");
    world_->calls_[rank_].emplace_back(FakeNccl::name_of(call.kind));
    const auto sent = symmetric_place(*comm, call.send);
    if (sent >= 0 && symmetric_place(*comm, call.receive) >= 0) {
      call.place = sent;
      world_->symmetric_calls_[rank_].push_back(FakeNccl::name_of(call.kind) +
                                                reduction_name(call));
    }
    task_.comm = comm;
    task_.calls.push_back(std::make_shared<Call>(call));
    stream_ = world_->find_stream(stream, "a collective");
    return NcclResult::Success;
  }

  /// Where in a symmetric window of the communicator this is; -1: in none.
  std::ptrdiff_t symmetric_place(const FakeNccl::Comm& comm, const void* data) const {
    const auto* place = static_cast<const char*>(data);
    for (const auto& [handle, window] : windows_) {
      if (!window.is_symmetric || !comm.windows.contains(handle)) continue;
      if (place >= window.data && place < window.data + window.bytes) return place - window.data;
    }
    return -1;
  }
  static std::string reduction_name(const Call& call) {
    if (call.kind == Call::Kind::Broadcast || call.kind == Call::Kind::AllGather) return "";
    if (call.has_factor) return " factor";
    static constexpr const char* kNames[] = {" sum", " product", " max", " min", " average"};
    return kNames[static_cast<int>(call.op)];
  }

  struct Window {
    char* data = nullptr;
    std::size_t bytes = 0;
    bool is_symmetric = false;
  };
  std::shared_ptr<FakeNccl> world_;
  int rank_;
  FakeNccl::Task task_;  // of the open group
  FakeNccl::Stream* stream_ = nullptr;
  std::map<native::NcclWindow, Window> windows_;
};

NcclResult FakeNcclRank::group_end() {
  const std::lock_guard lock(world_->mutex_);
  if (--world_->depths_[rank_] < 0) world_->complain("a group was closed that was not open");
  if (task_.calls.empty()) return NcclResult::Success;
  if (!stream_->has_waited) world_->complain("a stream that did not wait for the caller's");
  stream_->has_waited = false;
  auto* comm = task_.comm;
  const auto limit = world_->fails_after_.find(rank_);
  if (limit != world_->fails_after_.end() && ++comm->groups > limit->second) {
    comm->error = NcclResult::RemoteError;
  }
  comm->polls_left = 2;
  comm->is_over = [world = world_.get()] { return !world->are_calls_held_; };
  stream_->user = comm;
  stream_->tasks.push_back(std::exchange(task_, {}));
  return NcclResult::InProgress;
}

std::shared_ptr<native::NcclApi> make_fake_nccl_rank(std::shared_ptr<FakeNccl> world, int rank) {
  return std::make_shared<FakeNcclRank>(std::move(world), rank);
}

}  // namespace lockstep::testing
