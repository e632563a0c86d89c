// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/inference/answer.h>
#include <lockstep/inference/ensemble_error.h>
#include <lockstep/inference/statistics.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "inference/member_job.h"
#include "inference/request.h"
#include "inference/slot_areas.h"
#include "native/posix/owning_process.h"
#include "workers/worker_host.h"

namespace lockstep::inference::detail {

/// The program's side of an ensemble: the slots, the members' host, and what requests need.
///
/// Thread-safety: any thread, after the constructor.
/// Owns: the host and, with the members' processes, the channel.
class EnsembleCore : public RequestOwner, public std::enable_shared_from_this<EnsembleCore> {
 public:
  /// Checked members and options. Blocks: until the members are ready. Throws: as `Ensemble`.
  EnsembleCore(std::vector<Member> members, EnsembleOptions options);

  [[nodiscard]] std::shared_ptr<Request> submit(const at::Tensor& input);
  [[nodiscard]] bool ready();
  [[nodiscard]] EnsembleStatistics statistics();
  void close();
  [[nodiscard]] const std::vector<Member>& members() const noexcept { return job_->members; }
  [[nodiscard]] const EnsembleOptions& options() const noexcept { return job_->options; }

  [[nodiscard]] RequestChannel& channel() noexcept override { return *job_->channel; }
  [[nodiscard]] SpinBudget& spin() noexcept override { return spin_; }
  [[nodiscard]] bool is_own_process() const noexcept override { return owner_.is_current(); }
  [[nodiscard]] std::optional<Verdict> judge(std::size_t slot) override;
  [[nodiscard]] Outputs outputs_of(std::size_t slot, std::uint64_t number,
                                   const Verdict& verdict) override;
  void combine(Outputs& outputs) override;
  void count_end(std::size_t slot, const Verdict& verdict, bool is_answered) noexcept override;
  void count_cancelled() noexcept override;
  void release(std::size_t slot) noexcept override;

 private:
  struct Counts {
    LatencyHistogram latency{};
    std::atomic<std::uint64_t> submitted{0};
    std::atomic<std::uint64_t> answered{0};
    std::atomic<std::uint64_t> failed{0};
    std::atomic<std::uint64_t> cancelled{0};
    std::atomic<std::uint64_t> refused{0};
  };

  // Starting.
  void start_host();
  void wait_for_members();
  [[nodiscard]] std::string why_not_started(std::size_t worker) const;

  // Slots.
  [[nodiscard]] std::size_t take_slot(std::uint64_t deadline);
  [[nodiscard]] std::optional<std::size_t> try_take_slot();
  bool settle_finished_requests();
  void write_request(std::size_t slot, const at::Tensor& input, std::uint64_t deadline);

  // Answers.
  [[nodiscard]] bool is_lost();
  [[nodiscard]] bool is_gone(std::size_t member) const;
  [[nodiscard]] std::string why_gone(std::size_t member) const;
  [[nodiscard]] std::string why_absent(std::size_t member) const;
  [[nodiscard]] std::vector<MemberOutput> read_outputs(std::size_t slot, const Verdict& verdict,
                                                       bool in_place);
  [[nodiscard]] std::string why_missing(std::size_t slot, std::size_t member,
                                        const Verdict& verdict) const;
  [[nodiscard]] std::int64_t ready_copies_of(std::size_t member) const;
  [[nodiscard]] MemberStatistics statistics_of(std::size_t member) const;

  native::OwningProcess owner_;
  std::shared_ptr<MemberJob> job_;
  std::size_t quorum_;
  SpinBudget spin_;
  SlotAreas areas_;                                        // each slot's by its request
  std::unique_ptr<std::atomic<std::uint64_t>[]> missing_;  // by member
  Counts counts_;
  std::atomic<std::uint64_t> next_number_{1};
  std::atomic<bool> is_closed_{false};
  std::atomic<bool> is_lost_{false};
  std::atomic<std::uint64_t> last_look_{0};       // at the host
  std::mutex mutex_;                              // guards what follows
  std::vector<std::size_t> free_;                 // the last one was used last: its pages are warm
  std::vector<std::size_t> draining_;             // given up, while a member is still at them
  std::vector<std::weak_ptr<Request>> requests_;  // by slot
  std::unique_ptr<workers::WorkerHost> host_;
  std::mutex closing_;  // one thread stops the host, and others wait for it
};

}  // namespace lockstep::inference::detail
