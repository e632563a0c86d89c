// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/detail/loader_engine.h>

#include <c10/util/Exception.h>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>

namespace lockstep::data::detail {

/// Walks over the batches of one pass of an engine, or of a feed that has one: a
/// `std::input_iterator`. A batch is fetched when it is looked at, and given back by `++`.
template <class Codec, class Feed = LoaderEngine>
class BatchIterator {
 public:
  using Batch = typename Codec::Type;
  using iterator_category = std::input_iterator_tag;
  using value_type = Batch;
  using difference_type = std::ptrdiff_t;
  using pointer = Batch*;
  using reference = Batch&;

  BatchIterator(Feed* feed, std::uint64_t pass) : feed_(feed), pass_(pass) {}

  /// Throws: `WorkerError` when this batch could not be had; looking again, or after `++`, gives
  /// the next one.
  Batch& operator*() const {
    if (!current_) {
      check_pass();
      has_failed_ = true;
      current_ = Codec::from(feed_->next());
      has_failed_ = false;
    }
    return *current_;
  }
  Batch* operator->() const { return &**this; }
  BatchIterator& operator++() {
    // Over a batch that nobody looked at: it is fetched all the same, so that its errors are seen.
    if (!current_ && !has_failed_) static_cast<void>(**this);
    has_failed_ = false;
    current_.reset();  // gives the memory back before the next batch is asked for
    return *this;
  }
  void operator++(int) { ++*this; }

  [[nodiscard]] bool operator==(std::default_sentinel_t) const {
    if (current_) return false;
    check_pass();
    return !feed_->has_next();
  }

 private:
  void check_pass() const {
    TORCH_CHECK(pass_ == feed_->pass_id(),
                "DataLoader: this iterator is of an earlier pass; the newest begin() ended it");
  }

  Feed* feed_;
  std::uint64_t pass_;
  // Mutable, because std::input_iterator demands that `*` is const.
  mutable std::optional<Batch> current_;
  mutable bool has_failed_ = false;  // the batch of this position is lost
};

}  // namespace lockstep::data::detail
