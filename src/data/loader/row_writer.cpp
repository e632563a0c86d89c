// SPDX-License-Identifier: BSD-3-Clause
// Step 6 of a sample's path, where samples have rows of their own in a batch. Before it:
// batch_worker claimed them. After it: batch_builder fetches each, and sample_layout writes it.
#include "data/loader/row_writer.h"

#include "data/loader/batch_builder.h"
#include "data/loader/claimed_places.h"
#include "data/loader/sample_policy.h"
#include "data/loader/task_words.h"
#include "workers/item_word.h"
#include "workers/worker_record.h"

namespace lockstep::data::detail {

using workers::Claim;

bool RowWriter::fill(const Claim& claim, std::size_t& at) {
  for (; at < claim.items.size(); ++at) {
    if (channel_.is_futile(claim) || channel_.events().is_stopping()) return true;
    const auto row = claim.first + at;
    if (channel_.items().at(claim.slot, row) == workers::kLeftOut) continue;
    const auto what = fill_row(claim, row);
    if (what != Row::Done) return what == Row::Futile;
  }
  return true;
}

RowWriter::Row RowWriter::fill_row(const Claim& claim, std::size_t row) {
  const auto epoch = static_cast<std::int64_t>(channel_.word(claim.slot, kEpoch));
  ClaimedPlaces places(channel_, worker_, claim.slot);
  places.begin(row);
  if (!layout_ && memory_.is_known()) layout_ = memory_.layout();
  auto* const memory = layout_ ? memory_.of(claim.slot) : nullptr;
  std::optional<SampleTree> sample;
  const bool is_there =
      have_sample(job_.facts.on_failed_sample, places, row, [&](std::int64_t index) {
        sample = memory != nullptr
                     ? fetch_for_row(job_.source, job_.seed, epoch, index, *layout_, memory, row)
                     : fetch(job_.source, job_.seed, epoch, index);
      });
  if (memory != nullptr && sample) write_row(*sample, *layout_, memory, row);
  channel_.end_item(worker_);
  if (memory != nullptr) return Row::Done;
  if (is_there) return write_first_row(claim, row, *sample);
  channel_.events().wake_workers();  // the next one may be the first now
  return Row::Done;
}

// Writes a sample that was fetched before this worker knew the layout. In a claim that is given
// back nothing is written yet: this row is the first that there is.
RowWriter::Row RowWriter::write_first_row(const Claim& claim, std::size_t row,
                                          const SampleTree& sample) {
  while (!layout_) {
    const auto turn = memory_.await_turn(claim, row);
    if (turn == SlotMemory::Turn::Futile) return Row::Futile;
    if (turn == SlotMemory::Turn::GivenBack) return Row::GivenBack;
    // A worker that ends here ends at something, and not again and again.
    channel_.begin_item(worker_, claim.slot, workers::CurrentItem::kNoItem);
    if (turn == SlotMemory::Turn::Ours) {
      std::size_t bytes = 0;
      const auto structure = SampleLayout::of_rows(sample, job_.facts.largest_batch, bytes);
      if (!memory_.publish_layout(claim, structure.to_bytes(), bytes)) continue;
    }
    layout_ = memory_.layout();
  }
  write_row(sample, *layout_, memory_.of(claim.slot), row);
  channel_.end_item(worker_);
  return Row::Done;
}

}  // namespace lockstep::data::detail
