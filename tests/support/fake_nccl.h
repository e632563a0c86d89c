// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "comm/nccl/services.h"

namespace lockstep::testing {

/// NCCL and GPUs for ranks that are threads of one process. Memory of the "device" is the CPU's;
/// the current stream of a rank is its thread. Work on another stream runs whenever a rank polls
/// it, and only when all the ranks that it needs have come, as kernels of NCCL do: a send without a
/// receive holds up everything behind it in the stream.
///
/// `complaints` lists what a program must not do: calls in another order than other ranks', while
/// something is in progress, on a stream that did not wait for the caller's, with handles that are
/// gone; groups left open; resources that are never released.
class FakeNccl : public std::enable_shared_from_this<FakeNccl> {
 public:
  /// The longest time for which a call is blocked. It passes only where a test fails.
  static constexpr std::chrono::seconds kPatience{60};

  /// What one rank uses.
  [[nodiscard]] NcclServices services(int rank);

  // --- what goes wrong; set before it happens ---
  void fail_unique_id() {
    set([this] { fails_unique_id_ = true; });
  }
  void fail_init(int rank) {
    set([=, this] { fails_init_.insert(rank); });
  }
  /// That rank's communicators report an error once it has enqueued this many groups.
  void fail_after(int rank, int groups) {
    set([=, this] { fails_after_[rank] = groups; });
  }
  /// That rank cannot register memory.
  void fail_windows(int rank) {
    set([=, this] { fails_windows_.insert(rank); });
  }
  /// What that rank registers as symmetric is registered as ordinary memory.
  void deny_symmetric_windows(int rank) {
    set([=, this] { denies_symmetric_.insert(rank); });
  }
  void fail_events(int rank) {
    set([=, this] { fails_events_.insert(rank); });
  }
  void fail_zeroing(int rank) {
    set([=, this] { fails_zeroing_.insert(rank); });
  }
  void fail_memory(int rank) {
    set([=, this] { fails_memory_.insert(rank); });
  }
  /// Whether a thread sleeps that makes its own stream wait, as the stream would. Otherwise the
  /// wait is only counted.
  void make_hosts_wait(bool value) {
    set([=, this] { do_hosts_wait_ = value; });
  }
  /// Calls that are enqueued stay in progress until this is taken back, as where NCCL sets up
  /// connections.
  void hold_calls(bool value) {
    set([=, this] { are_calls_held_ = value; });
  }
  /// Aborts, and calls that deregister windows, do not return until this is taken back.
  void block(bool aborts, bool windows = false) {
    set([=, this] {
      are_aborts_blocked_ = aborts;
      are_windows_blocked_ = windows;
    });
  }
  /// The compute capability of all devices, as 90 for 9.0.
  void set_compute_capability(int value) {
    set([=, this] { compute_capability_ = value; });
  }
  /// Sets `NcclServices::end_limit`. Only before `services`.
  void limit_ends(std::chrono::milliseconds value) {
    set([=, this] { end_limit_ = value; });
  }
  /// What that rank enqueues goes into a graph until this is taken back. The fake runs it all the
  /// same, and complains where the end of such work is asked for, or waited for outside of its
  /// graph.
  void capture(int rank, bool value) {
    set([=, this] {
      if (value) {
        capturing_[rank] = ++captures_;
      } else {
        capturing_.erase(rank);
      }
    });
  }
  /// What the ranks' own streams are given from now on does not end.
  void stop_programs(bool value) {
    set([=, this] { are_programs_stopped_ = value; });
  }
  /// No stream makes progress until this is taken back.
  void pause(bool value) {
    set([=, this] { is_paused_ = value; });
  }

  // --- what happened ---
  [[nodiscard]] int host_waits(int rank);
  [[nodiscard]] int aborts();
  /// The ranks that made an id for a communicator, oldest first.
  [[nodiscard]] std::vector<int> id_makers();
  /// What `NCCL_SOCKET_IFNAME` said when a communicator was first made; NCCL reads it once.
  [[nodiscard]] std::string interfaces();
  /// Calls that wait until `block` is taken back.
  [[nodiscard]] int blocked();
  [[nodiscard]] int splits();
  [[nodiscard]] int windows_made();
  [[nodiscard]] int threads_that_allow_captures();
  /// The calls that a rank enqueued both of whose buffers lie in symmetric windows, oldest first:
  /// name and reduction, as "all_reduce sum". Only those may have NCCL's symmetric kernels.
  [[nodiscard]] std::vector<std::string> symmetric_calls(int rank);
  /// How often a rank's communicators were asked for their state, by the watchdog too.
  [[nodiscard]] int looks(int rank);
  /// Names of the calls enqueued by a rank, oldest first.
  [[nodiscard]] std::vector<std::string> calls(int rank);
  /// One text for each mistake, and for each resource that is left. Empty when all is well.
  [[nodiscard]] std::vector<std::string> complaints();

 private:
  friend class FakeNcclRank;
  friend class FakeDeviceRank;

  struct Call {
    enum class Kind { AllReduce, Reduce, ReduceScatter, Broadcast, AllGather, Send, Receive };
    Kind kind;
    const void* send = nullptr;
    void* receive = nullptr;
    std::size_t count = 0;
    native::NcclType type = native::NcclType::Uint8;
    native::NcclReduction op = native::NcclReduction::Sum;
    double factor = 1;
    bool has_factor = false;
    int root = 0;               // or the peer
    std::ptrdiff_t place = -1;  // in a symmetric window
    bool is_done = false;
  };
  using CallPointer = std::shared_ptr<Call>;
  static const char* name_of(Call::Kind kind);

  struct SharedComm {  // what all ranks of a communicator share
    int world_size = 0;
    int joined = 0;
    int finalized = 0;
    std::vector<std::deque<CallPointer>> collectives;              // by rank
    std::map<std::pair<int, int>, std::deque<CallPointer>> sends;  // from, to
    std::map<std::pair<int, int>, std::deque<CallPointer>> receives;
    std::vector<int> windows;                                          // made, by rank
    std::vector<int> splits;                                           // by rank
    std::map<std::pair<int, int>, std::shared_ptr<SharedComm>> parts;  // number of split, color
    std::map<std::pair<int, int>, std::vector<std::pair<int, int>>> keys;
  };
  struct Comm {
    std::shared_ptr<SharedComm> shared;
    int owner = 0;  // the rank of the test
    int rank = 0;
    bool is_alive = true;
    bool is_finalized = false;
    bool is_aborting = false;
    bool is_lent = false;  // in a call that takes its time
    int polls_left = 0;
    int groups = 0;
    native::NcclResult error = native::NcclResult::Success;
    std::set<native::NcclWindow> windows;
    std::set<native::NcclReduction> reductions;
    std::function<bool()> is_over;  // whether what is in progress has ended
  };
  struct Task {
    Comm* comm = nullptr;  // null unless this is a kernel
    std::vector<CallPointer> calls;
    bool is_posted = false;
    std::function<bool()> run;  // null where this is a kernel; returns true when it is done
  };
  struct Stream {
    int owner = 0;
    bool is_alive = true;
    bool has_waited = false;
    Comm* user = nullptr;  // the last
    std::deque<Task> tasks;

    void push(std::function<bool()> work) {
      tasks.emplace_back();
      tasks.back().run = std::move(work);
    }
  };
  struct Event {
    std::uint64_t recorded = 0;
    std::uint64_t reached = 0;
    bool is_of_host = false;
    int capture = 0;  // the number of the capture in which it was recorded
  };

  void set(const std::function<void()>& change);
  // With the lock held.
  void complain(const std::string& text) { complaints_.push_back(text); }
  void run();
  bool run_front(Stream& stream);
  void post(Task& task);
  void match(SharedComm& shared);
  bool match_collectives(SharedComm& shared);
  bool match_messages(SharedComm& shared);
  void execute(const std::vector<CallPointer>& calls);
  void cancel(Comm& comm);
  [[nodiscard]] bool has_kernels(const Comm& comm) const;
  Comm* find(void* handle, const char* call);
  Stream* find_stream(void* handle, const char* call);
  /// What NCCL does before anything else.
  void read_environment();
  /// Waits while a flag is set.
  void wait_while(std::unique_lock<std::mutex>& lock, const bool& flag);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> complaints_;
  std::map<std::uint64_t, std::shared_ptr<SharedComm>> shared_comms_;
  std::vector<std::unique_ptr<Comm>> comms_;
  std::vector<std::unique_ptr<Stream>> streams_;
  std::set<Event*> events_;
  std::vector<std::unique_ptr<Event>> old_events_;
  std::map<void*, std::size_t> memory_;
  std::map<int, double> factors_;
  std::map<int, std::vector<std::string>> calls_;
  std::map<int, std::vector<std::string>> symmetric_calls_;
  std::map<int, int> host_waits_;
  int captures_ = 0;
  std::map<int, int> capturing_;  // the number of its capture, by rank
  int threads_that_allow_captures_ = 0;
  std::map<int, int> looks_;
  std::map<int, int> depths_;  // of open groups, by rank
  std::uint64_t next_id_ = 1;
  std::vector<int> id_makers_;
  std::optional<std::string> interfaces_;
  int next_reduction_ = 100;
  std::uintptr_t next_window_ = 1;
  int aborts_ = 0;
  int blocked_ = 0;
  int splits_ = 0;
  int windows_made_ = 0;
  int compute_capability_ = 90;
  std::chrono::milliseconds end_limit_{10000};
  bool are_calls_held_ = false;
  bool are_aborts_blocked_ = false;
  bool are_windows_blocked_ = false;
  bool do_hosts_wait_ = true;
  bool is_paused_ = false;
  bool are_programs_stopped_ = false;
  bool fails_unique_id_ = false;
  std::set<int> fails_init_;
  std::set<int> fails_events_;
  std::set<int> fails_memory_;
  std::set<int> fails_zeroing_;
  std::set<int> fails_windows_;
  std::set<int> denies_symmetric_;
  std::map<int, int> fails_after_;
};

/// One rank's part of `FakeNccl`.
[[nodiscard]] std::shared_ptr<native::NcclApi> make_fake_nccl_rank(std::shared_ptr<FakeNccl> world,
                                                                   int rank);
[[nodiscard]] std::shared_ptr<native::DeviceApi> make_fake_device_rank(
    std::shared_ptr<FakeNccl> world, int rank);

}  // namespace lockstep::testing
