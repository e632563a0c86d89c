// SPDX-License-Identifier: BSD-3-Clause
// Step 2 of the way of a sample: an epoch's indices are cut into batches. Before it:
// distributed_sampler. After it: process_source has workers build them, inline_source builds them
// here.
#include <lockstep/data/data_loader.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "data/batch_source.h"
#include "data/inline_source.h"
#include "data/process_source.h"

namespace lockstep::data::detail {
namespace {

constexpr std::int64_t kMaxPrefetch = 64;
constexpr std::chrono::milliseconds kMaxTimeout = std::chrono::hours(24 * 365);

void check(const DataLoaderOptions& options) {
  constexpr auto kMaxWorkers = DataLoaderOptions::kMaxWorkers;
  TORCH_CHECK(options.batch_size() > 0, "DataLoaderOptions: batch_size is ", options.batch_size(),
              "; it must be at least 1");
  TORCH_CHECK(options.workers() >= 0 && options.workers() <= kMaxWorkers,
              "DataLoaderOptions: workers is ", options.workers(), "; it must be from 0 to ",
              kMaxWorkers);
  TORCH_CHECK(options.prefetch_batches() > 0 && options.prefetch_batches() <= kMaxPrefetch,
              "DataLoaderOptions: prefetch_batches is ", options.prefetch_batches(),
              "; it must be from 1 to ", kMaxPrefetch);
  TORCH_CHECK(options.timeout().count() > 0 && options.timeout() <= kMaxTimeout,
              "DataLoaderOptions: timeout is ", options.timeout().count(),
              " ms; it must be from 1 to ", kMaxTimeout.count(), " ms");
}

std::unique_ptr<BatchSource> make_source(SampleSource source, std::size_t largest_batch,
                                         const DataLoaderOptions& options) {
  if (options.workers() == 0) return std::make_unique<InlineSource>(std::move(source));
  try {
    return std::make_unique<ProcessSource>(std::move(source), largest_batch, options);
  } catch (const std::system_error& error) {
    TORCH_CHECK(false, "DataLoader: ", error.what());
  }
}

}  // namespace

LoaderEngine::LoaderEngine(SampleSource source, const SamplerFacts& sampler,
                           const DataLoaderOptions& options)
    : batch_size_(static_cast<std::size_t>(options.batch_size())),
      drop_last_(options.drop_last()),
      samples_limit_(sampler.size) {
  check(options);
  TORCH_CHECK(!source.size || *source.size > 0,
              "DataLoader: the dataset is empty; it must hold at least 1 sample");
  TORCH_CHECK(!source.size || sampler.dataset_size <= *source.size,
              "DataLoader: the sampler is for ", sampler.dataset_size,
              " samples, the dataset holds ", *source.size);
  // A batch is never larger than an epoch, whatever batch_size says.
  const auto largest = std::max<std::size_t>(1, std::min(batch_size_, sampler.size));
  source_ = make_source(std::move(source), largest, options);
}

LoaderEngine::~LoaderEngine() = default;

std::uint64_t LoaderEngine::start(std::vector<std::int64_t> indices) {
  TORCH_CHECK(indices.size() <= samples_limit_, "DataLoader: the sampler gave ", indices.size(),
              " indices, but promised at most ", samples_limit_);
  const auto count = batches(indices.size());
  source_->start(BatchPlan(std::move(indices), batch_size_, count));
  return ++pass_;
}

std::size_t LoaderEngine::remaining() const {
  return source_->remaining();
}

Batch LoaderEngine::next() {
  TORCH_CHECK(remaining() > 0, "DataLoader: there are no more batches in this epoch");
  return source_->next();
}

std::size_t LoaderEngine::batches(std::size_t samples) const noexcept {
  const auto full = samples / batch_size_;
  return full + (!drop_last_ && samples % batch_size_ != 0 ? 1 : 0);
}

void BatchIterator::check_pass() const {
  TORCH_CHECK(pass_ == engine_->pass(),
              "DataLoader: this iterator is of an earlier pass; the newest begin() ended it");
}

Batch& BatchIterator::operator*() {
  if (!current_) {
    check_pass();
    has_failed_ = true;
    current_ = engine_->next();
    has_failed_ = false;
  }
  return *current_;
}

BatchIterator& BatchIterator::operator++() {
  // Over a batch that nobody looked at: it is fetched all the same, so that its errors are seen.
  if (!current_ && !has_failed_) static_cast<void>(**this);
  has_failed_ = false;
  current_.reset();  // gives the memory back before the next batch is asked for
  return *this;
}

bool BatchIterator::is_at_end() const {
  if (current_) return false;
  check_pass();
  return engine_->remaining() == 0;
}

}  // namespace lockstep::data::detail
