// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/data_loader_options.h>
#include <lockstep/data/loader/detail/loader_input.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "workers/item_word.h"

/// What becomes of samples at which the dataset throws. Every worker must decide the same, so the
/// decision follows from the batch's indices, and those behind it in the epoch's order, alone.
namespace lockstep::data::detail {

/// Thrown for a sample that nobody waits for any more: no policy applies.
struct SampleNotWanted : std::exception {
  [[nodiscard]] const char* what() const noexcept override {
    return "the sample is not wanted any more";
  }
};

/// Thrown for a sample that did not come within `DataLoaderOptions::timeout`.
struct SilentSample : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// What follows a batch in its pass, to replace samples; `workers::kLeftOut` where there is
/// nothing.
using ItemsBehind = std::array<std::int64_t, DataLoaderOptions::kReplacements>;
[[nodiscard]] ItemsBehind items_behind(const PassPlan& plan, std::size_t batch);

/// A sample that was not there, for the warning.
struct MissingSample {
  std::optional<std::int64_t> index;  ///< nothing: of an iterable dataset
  std::string exception_type;
  std::string message;
};

/// Logs the first one of a loader.
class MissingSampleWarning {
 public:
  [[nodiscard]] bool is_due() const noexcept { return !is_over_; }
  void give(const SampleSource& source, SamplePolicy policy, const MissingSample& sample);

 private:
  bool is_over_ = false;
};

/// The places of a batch, as `have_sample` sees them. `word(place)` is the index of its sample,
/// `workers::kLeftOut`, or `workers::to_be_replaced(index)`.
template <class Places>
concept BatchPlaces = requires(Places& places, std::size_t place, std::int64_t index) {
  { places.size() } -> std::convertible_to<std::size_t>;
  { places.word(place) } -> std::convertible_to<std::int64_t>;
  { places.behind(place) } -> std::convertible_to<std::int64_t>;
  places.begin(place);        // before its sample is fetched, in whatever place it shall be
  places.note(place, index);  // in a catch block
  places.leave_out(place);
  places.replace(place, index);
};

/// Puts the next sample that can be had into this place: of the batch, from its beginning on again
/// behind its end, then of those behind it. What others may have put into those places meanwhile is
/// what would be found there, so it does not matter who comes first.
///
/// Each silent one takes as long as `DataLoaderOptions::timeout` says; where two of them are, no
/// more are tried.
template <BatchPlaces Places, class Fetch>
bool replace_sample(Places& places, std::size_t place, const Fetch& fetch) {
  const auto size = places.size();
  bool is_silent = false;
  for (std::size_t step = 1; step < size + DataLoaderOptions::kReplacements; ++step) {
    const auto other = (place + step) % size;
    const auto index = step < size ? places.word(other) : places.behind(step - size);
    if (index < 0) continue;
    try {
      places.begin(step < size ? other : place);
      fetch(index);
    } catch (const SampleNotWanted&) {
      throw;
    } catch (const SilentSample&) {
      if (std::exchange(is_silent, true)) return false;
      continue;
    } catch (...) {  // the next one, then
      continue;
    }
    places.begin(place);
    places.replace(place, index);
    return true;
  }
  return false;
}

/// Has `fetch(index)` fetch the sample for a place of a batch, which the caller has begun. False
/// when nothing is there, and the place is left out.
/// Throws: what the dataset throws, where the policy says so or no other sample can be had.
template <BatchPlaces Places, class Fetch>
bool have_sample(SamplePolicy policy, Places& places, std::size_t place, const Fetch& fetch) {
  const auto word = places.word(place);
  if (word == workers::kLeftOut) return false;
  if (word >= 0) {
    if (policy == SamplePolicy::Error) {
      fetch(word);
      return true;
    }
    try {
      fetch(word);
      return true;
    } catch (const SampleNotWanted&) {
      throw;
    } catch (...) {
      places.note(place, word);
      if (policy == SamplePolicy::Replace) {
        if (replace_sample(places, place, fetch)) return true;
        places.begin(place);
        throw;
      }
    }
    places.leave_out(place);
    return false;
  }
  if (replace_sample(places, place, fetch)) return true;
  throw std::runtime_error("it has ended two workers, and no other sample can take its place");
}

/// The next sample of a stream; those at which it throws are passed over, where the policy says so.
/// `begin` is called before each, `note` in the catch block.
template <class Begin, class Note>
std::optional<SampleTree> next_sample(SampleStream& stream, SamplePolicy policy, const Begin& begin,
                                      const Note& note) {
  for (std::size_t thrown = 0;;) {
    begin();
    try {
      return stream.next();
    } catch (...) {
      if (policy == SamplePolicy::Error || ++thrown == DataLoaderOptions::kMostThrownInARow) throw;
      note();
    }
  }
}

}  // namespace lockstep::data::detail
