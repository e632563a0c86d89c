// SPDX-License-Identifier: BSD-3-Clause
// Step 2 of a sample's path: an epoch's indices are cut into batches. Before it: the sampler gave
// the order. After it: batch_scheduler gives the batches out to workers, or inline_source builds
// them in this thread.
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>
#include <lockstep/core/logging.h>
#include <lockstep/data/loader/data_loader_options.h>
#include <lockstep/data/loader/detail/loader_engine.h>

#include <algorithm>
#include <string>
#include <system_error>
#include <utility>

#include "data/loader/batch_source.h"
#include "data/loader/inline_source.h"
#include "data/loader/option_checks.h"
#include "data/loader/sample_generator.h"
#include "data/loader/worker_source.h"
#include "data/samplers/mix.h"

namespace lockstep::data::detail {
namespace {

// One dataset for several threads at once would be a race that no error reports.
void check_threads(const SampleSource& source, const DataLoaderOptions& options) {
  if (options.kind() != WorkerKind::Thread) return;
  TORCH_CHECK(
      options.workers() <= 1 || source.copy, "DataLoader: ", options.workers(),
      " thread workers need a copy of the dataset each, and it cannot be copied; give it a copy "
      "constructor, use 1 worker or WorkerKind::Process, or, where several threads may call it at "
      "once, hold what cannot be copied by a std::shared_ptr");
}

std::unique_ptr<BatchSource> make_source(SampleSource source, const BatchFacts& facts,
                                         const DataLoaderOptions& options) {
  if (options.workers() == 0) {
    return std::make_unique<InlineSource>(std::move(source), facts, options.seed());
  }
  try {
    return std::make_unique<WorkerSource>(std::move(source), facts, options);
  } catch (const std::system_error& error) {
    TORCH_CHECK(false, "DataLoader: ", error.what());
  }
}

}  // namespace

LoaderEngine::LoaderEngine(SampleSource source, const SamplerFacts& sampler,
                           const DataLoaderOptions& options)
    : batch_size_(static_cast<std::size_t>(options.batch_size())),
      seed_(options.seed()),
      drop_last_(options.drop_last()),
      in_order_(options.in_order()),
      prepares_next_epoch_(options.prepare_next_epoch()),
      sampler_(sampler) {
  check_options(options, source.open != nullptr, sampler);
  check_threads(source, options);
  TORCH_CHECK(!source.size || *source.size > 0,
              "DataLoader: the dataset is empty; it must hold at least 1 sample");
  TORCH_CHECK(!source.size || sampler.dataset_size <= *source.size,
              "DataLoader: the sampler is for ", sampler.dataset_size,
              " samples, the dataset holds ", *source.size);
  BatchFacts facts;
  facts.batch_size = batch_size_;
  facts.drop_last = drop_last_;
  facts.on_failed_sample = options.on_failed_sample();
  facts.timeout = options.timeout();
  if (source.files) facts.read_ahead = static_cast<std::size_t>(options.read_ahead());
  if (source.start) facts.in_flight = static_cast<std::size_t>(options.in_flight());
  if (source.open) {
    facts.all_shards = static_cast<std::size_t>(options.shards());
    facts.first_shard = static_cast<std::size_t>(options.rank());
    facts.shard_step = static_cast<std::size_t>(options.world_size());
    facts.shards = (facts.all_shards - facts.first_shard + facts.shard_step - 1) / facts.shard_step;
  } else {
    // A batch is never larger than an epoch, whatever batch_size says.
    const auto largest =
        sampler.largest_batch != 0 ? sampler.largest_batch : std::min(batch_size_, sampler.size);
    facts.largest_batch = std::max<std::size_t>(1, largest);
  }
  redirect_draws();  // once, not in each worker
  source_ = make_source(std::move(source), facts, options);
  if (!options.pin_memory()) return;
  // Not before the workers are there: what CUDA begins in a process must not come to its children.
  if (auto pinning = native::make_host_pinning()) {
    source_->pin_batches(std::move(pinning));
  } else {
    logging::warning(
        "data loader: pin_memory is on, but there is no GPU, or no CUDA in this build of Lockstep; "
        "batches lie in ordinary memory");
  }
}

LoaderEngine::~LoaderEngine() = default;

PassPlan LoaderEngine::cut(std::int64_t epoch, std::size_t samples, AppendIndices append) const {
  TORCH_CHECK(samples <= sampler_.size, "DataLoader: the sampler gave ", samples,
              " indices, but promised at most ", sampler_.size);
  PassPlan plan;
  plan.epoch = epoch;
  plan.batches = batches(samples);
  plan.items = [append = std::move(append), samples, size = batch_size_](
                   std::size_t batch, std::vector<std::int64_t>& items) {
    const auto first = batch * size;
    const auto count = std::min(size, samples - first);
    const auto before = items.size();
    append(first, count, items);
    TORCH_CHECK(items.size() == before + count, "DataLoader: the sampler gave ",
                items.size() - before, " indices from position ", first, " on, not ", count);
  };
  return plan;
}

PassPlan LoaderEngine::checked(PassPlan plan) const {
  if (!plan.items) return plan;
  plan.items = [items = std::move(plan.items), limit = sampler_.dataset_size](
                   std::size_t batch, std::vector<std::int64_t>& result) {
    items(batch, result);
    TORCH_CHECK(!result.empty(), "DataLoader: batch ", batch, " of the sampler is empty");
    const auto is_bad = [limit](std::int64_t index) {
      return index < 0 || (limit != 0 && static_cast<std::size_t>(index) >= limit);
    };
    const auto bad = std::find_if(result.begin(), result.end(), is_bad);
    TORCH_CHECK(bad == result.end(), "DataLoader: the sampler gave the index ", *bad, " in batch ",
                batch, "; it must be from 0 to ", limit, " - 1");
  };
  return plan;
}

void LoaderEngine::start(PassPlan plan) {
  prepared_epoch_ = -1;
  received_.reset();
  source_->start(checked(std::move(plan)));
  ++pass_id_;
}

void LoaderEngine::prepare(std::int64_t epoch, std::function<PassPlan()> plan) {
  prepared_epoch_ = epoch;
  source_->prepare([this, plan = std::move(plan)] { return checked(plan()); });
}

bool LoaderEngine::start_prepared(std::int64_t epoch) {
  if (epoch != prepared_epoch_ || !source_->start_prepared()) return false;
  prepared_epoch_ = -1;
  received_.reset();
  ++pass_id_;
  return true;
}

void LoaderEngine::warn_of_repetition(std::int64_t epoch) {
  if (has_warned_of_repetition_) return;
  has_warned_of_repetition_ = true;
  logging::warning("data loader: epoch " + std::to_string(epoch) +
                   " begins once more after a whole pass over it, with the same order and the same "
                   "random numbers; call set_epoch before each pass");
}

bool LoaderEngine::has_next() {
  return source_->has_next();
}

SampleTree LoaderEngine::next() {
  TORCH_CHECK(has_next(), "DataLoader: there are no more batches in this epoch");
  return source_->next();
}

bool LoaderEngine::is_ready() {
  return source_->is_ready();
}

void LoaderEngine::mark_received() {
  received_ = source_->delivered();
}

c10::Stream LoaderEngine::copy_stream(c10::Device device) {
  if (!copy_stream_ || copy_stream_->device() != device) {
    copy_stream_ = c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device);
  }
  return *copy_stream_;
}

std::size_t LoaderEngine::batches(std::size_t samples) const noexcept {
  const auto full = samples / batch_size_;
  return full + (!drop_last_ && samples % batch_size_ != 0 ? 1 : 0);
}

std::size_t LoaderEngine::consumed() const {
  return delivered() * batch_size_;
}

std::size_t LoaderEngine::delivered() const {
  return received_.value_or(source_->delivered());
}

std::size_t LoaderEngine::received() const {
  if (!progress_.has_begun()) return 0;
  return sampler_.gives_batches ? delivered() : consumed();
}

LoaderState LoaderEngine::state(const SamplerIdentity& sampler, std::int64_t epoch,
                                std::uint64_t position) const {
  TORCH_CHECK(in_order_, "DataLoader: there is no state with in_order(false)");
  LoaderState state;
  state.seed = sampler.seed;
  state.epoch = epoch;
  state.position = position;
  state.dataset_size = sampler.dataset_size;
  state.fingerprint = fingerprint(sampler.fingerprint);
  return state;
}

void LoaderEngine::check_state(const LoaderState& state, const SamplerIdentity& sampler) const {
  TORCH_CHECK(state.dataset_size == sampler.dataset_size, "DataLoader: the state is of ",
              state.dataset_size, " samples, the sampler is for ", sampler.dataset_size);
  TORCH_CHECK(state.seed == sampler.seed, "DataLoader: the state has the seed ", state.seed,
              ", the sampler has ", sampler.seed);
  TORCH_CHECK(
      state.fingerprint == fingerprint(sampler.fingerprint),
      "DataLoader: the state is of a sampler of another kind, with other options (such as "
      "shuffle, num_samples, window or the size of its batches), or for other weights, "
      "labels, lengths or indices, or of a loader with another DataLoaderOptions::seed. The "
      "number of ranks may differ, these may not");
}

std::uint64_t LoaderEngine::fingerprint(std::uint64_t order) const noexcept {
  return OrderFingerprint("loader").add(order).add(seed_).value();
}

LoaderStatistics LoaderEngine::statistics() const {
  return source_->statistics();
}

}  // namespace lockstep::data::detail
