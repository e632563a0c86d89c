// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/detail/loader_input.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <list>
#include <memory>

#include "data/loader/look_ahead_counts.h"
#include "data/loader/upcoming.h"
#include "native/posix/owning_process.h"

namespace lockstep::data::detail {

/// The samples that a dataset's `get_async` has under way, begun in the order in which they are
/// wanted.
///
/// Runs in the process that fetches the samples. Thread-safety: none.
/// Owns: what is under way. What nobody wants any more is kept until it is there, since a future
/// may wait when it is destroyed.
class PendingSamples {
 public:
  /// Tells what comes: at most `most` samples, that which is wanted now before all others.
  using Tell = std::function<void(std::size_t most, const UseUpcoming& use)>;
  /// Asked before a sample is taken and while it is waited for; false: it is not wanted any more.
  using GoesOn = std::function<bool()>;

  /// At most `most` samples are under way, unless one that was not told is wanted; one that was
  /// waited for in vain does not count. `timeout`: how long one is waited for. `patience`: how long
  /// the destructor waits for all. `counts` outlives it.
  PendingSamples(const SampleSource& source, std::size_t most, std::chrono::milliseconds timeout,
                 std::chrono::milliseconds patience, LookAheadCounts& counts);
  /// Blocks: for at most `patience`; what is under way then is left alone, with the dataset.
  ~PendingSamples();
  PendingSamples(const PendingSamples&) = delete;
  PendingSamples& operator=(const PendingSamples&) = delete;

  void use(Tell tell, GoesOn goes_on);
  /// A source like the one given, whose `get` takes samples from here.
  [[nodiscard]] SampleSource source();

  /// Waits for a sample that has been begun, or begins it.
  /// Blocks: at most `timeout`, time without this process left out.
  /// Throws: what the dataset throws; `SilentSample` when the time is over; `SampleNotWanted`.
  [[nodiscard]] SampleTree take(std::size_t index, SampleRandom& random);
  /// Samples of places before this one are not wanted any more.
  void forget_before(std::uint64_t place);
  void forget_all();

 private:
  struct Entry {
    std::uint64_t place = 0;
    std::size_t index = 0;
    std::unique_ptr<PendingSample> sample;  // nothing where it could not be begun
    std::exception_ptr error;
    bool is_silent = false;  // it was waited for in vain
  };
  using Entries = std::list<Entry>;

  [[nodiscard]] std::size_t under_way() const;
  void begin_upcoming();
  void begin(std::size_t index, std::uint64_t place);
  void await(Entry& entry);
  void let_go(Entries& from, Entries::iterator entry);
  void sweep();
  void note_under_way();
  void forget_those_of_parent();

  SampleSource source_;
  std::size_t most_;
  std::chrono::milliseconds timeout_;
  std::chrono::milliseconds patience_;
  LookAheadCounts& counts_;
  Tell tell_;
  GoesOn goes_on_;
  native::OwningProcess owner_;
  Entries entries_;
  Entries unwanted_;
};

}  // namespace lockstep::data::detail
