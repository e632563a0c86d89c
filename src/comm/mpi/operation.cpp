// SPDX-License-Identifier: BSD-3-Clause
#include "comm/mpi/operation.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <string_view>
#include <thread>

#include "comm/collective/message.h"
#include "concurrency/deadline.h"

namespace lockstep {
namespace {

using native::check_mpi;

// Under it a rank says why it gave up, on a communicator that carries no messages.
constexpr int kLeavingTag = kOwnTag;
constexpr std::chrono::microseconds kMpiPollInterval{50};
constexpr int kPollsBeforeSleep = 200;
// Far longer than what is under way takes between two hosts, far shorter than any deadline.
constexpr std::chrono::milliseconds kOvertaking{200};

// How long a rank that waits in this group may take to answer. Nobody is there to be held up by it:
// the one that asks has waited until its deadline.
constexpr std::chrono::milliseconds kAnswerTime{500};

// What goes under that tag: the reason of a rank that gave up, or one of these.
using Reason = std::array<char, 256>;
constexpr char kQuestion = 1;
constexpr char kAnswer = 2;

/// Does not wait; never throws.
void say(MpiChannels& channels, std::string_view what, int peer) noexcept {
  // Never given back: nobody waits for these messages to go out, and there are few.
  auto* text = new (std::nothrow) Reason{};
  if (text == nullptr) return;
  std::memcpy(text->data(), what.data(), std::min(what.size(), text->size() - 1));
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Isend(text->data(), static_cast<int>(text->size()), MPI_CHAR, peer, kLeavingTag,
            channels.fingerprints.get(), &request);
}

void say_to_all(MpiChannels& channels, std::string_view what) noexcept {
  for (int peer = 0; peer < channels.fingerprints.size(); ++peer) {
    if (peer != channels.fingerprints.rank()) say(channels, what, peer);
  }
}

/// Takes in what a rank said that gave up; answers those that ask.
void listen(MpiChannels& channels) {
  native::check_mpi_runs();
  while (!channels.word) {
    int has_come = 0;
    MPI_Status status;
    check_mpi(
        MPI_Iprobe(MPI_ANY_SOURCE, kLeavingTag, channels.fingerprints.get(), &has_come, &status),
        "MPI_Iprobe");
    if (has_come == 0) return;
    Reason reason{};
    check_mpi(MPI_Recv(reason.data(), static_cast<int>(reason.size()), MPI_CHAR, status.MPI_SOURCE,
                       kLeavingTag, channels.fingerprints.get(), MPI_STATUS_IGNORE),
              "MPI_Recv");
    reason.back() = '\0';
    if (reason.front() == kQuestion) {
      say(channels, {&kAnswer, 1}, status.MPI_SOURCE);
    } else if (reason.front() == kAnswer) {
      channels.answers.insert(status.MPI_SOURCE);
    } else {
      channels.word = {"rank " + std::to_string(status.MPI_SOURCE) + " gave up: " + reason.data(),
                       std::chrono::steady_clock::now()};
    }
  }
}

}  // namespace

void MpiBackoff::sleep(std::chrono::nanoseconds limit) {
  if (++polls_ < kPollsBeforeSleep) {
    std::this_thread::yield();
  } else {
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(kMpiPollInterval, limit));
  }
}

void check_mpi_peers(MpiChannels& channels) {
  listen(channels);
  if (!channels.word || std::chrono::steady_clock::now() - channels.word->since < kOvertaking) {
    return;
  }
  throw OperationFailure{OperationFailure::Kind::PeerLost, channels.word->text,
                         "look at what that rank reported first"};
}

std::string find_silent_mpi_peers(MpiChannels& channels) {
  channels.answers = {channels.fingerprints.rank()};
  say_to_all(channels, {&kQuestion, 1});
  const auto all = static_cast<std::size_t>(channels.fingerprints.size());
  const Deadline deadline = Deadline::after(kAnswerTime);
  MpiBackoff backoff;
  while (listen(channels), !channels.word && channels.answers.size() < all) {
    if (deadline.has_passed()) break;
    backoff.sleep(deadline.remaining());
  }
  if (channels.word) return channels.word->text;
  std::string text;
  for (int peer = 0; peer < channels.fingerprints.size(); ++peer) {
    if (channels.answers.contains(peer)) continue;
    text += (text.empty() ? "rank " : ", rank ") + std::to_string(peer) +
            " has arrived, but does not answer: it is gone, or in no call of this group";
  }
  return text;
}

MpiOperation::MpiOperation(MpiChannels& channels, Fingerprint fingerprint, std::size_t bytes)
    : channels_(channels),
      own_(fingerprint),
      others_(static_cast<std::size_t>(channels.data.size())),
      bytes_(bytes) {}

std::size_t MpiOperation::chunk_bytes() const {
  return kMpiChunkBytes;
}

bool MpiOperation::try_start(bool) {
  if (announcements_.size() != 0) return true;
  const int tag = static_cast<int>(channels_.announced++ % (kMaxTag + 1));
  for (int peer = 0; peer < world_size(); ++peer) {
    auto* place = &others_[static_cast<std::size_t>(peer)];
    check_mpi(MPI_Irecv(place, sizeof(*place), MPI_BYTE, peer, tag, channels_.fingerprints.get(),
                        announcements_.add()),
              "MPI_Irecv");
  }
  for (int peer = 0; peer < world_size(); ++peer) {
    check_mpi(MPI_Isend(&own_, sizeof(own_), MPI_BYTE, peer, tag, channels_.fingerprints.get(),
                        announcements_.add()),
              "MPI_Isend");
  }
  return true;
}

bool MpiOperation::try_finish() {
  if (!is_agreed_) {
    if (!announcements_.test()) return false;
    check_fingerprints(world_size(),
                       [this](int rank) { return others_[static_cast<std::size_t>(rank)]; });
    is_agreed_ = true;
  }
  while (requests_.test() && is_step_done()) {
    requests_.clear();
    backoff_.reset();
    if (!start_next_step()) return true;
  }
  return false;
}

bool MpiOperation::start_next_step() {
  if (!is_prepared_) {
    if (start_preparation(step_++, requests_)) return true;
    is_prepared_ = true;
    step_ = 0;
  }
  while (done_bytes_ < bytes_) {
    const Chunk chunk{done_bytes_, std::min(chunk_bytes(), bytes_ - done_bytes_)};
    if (start_step(step_++, chunk, requests_)) return true;
    done_bytes_ += chunk.bytes;
    step_ = 0;
  }
  return false;
}

bool MpiOperation::has_announced(int peer) const {
  return announcements_.is_done(static_cast<std::size_t>(peer));
}

std::string MpiOperation::describe_missing() const {
  std::string text;
  for (int peer = 0; !is_agreed_ && peer < world_size(); ++peer) {
    if (has_announced(peer)) continue;
    text += (text.empty() ? "rank " : ", rank ") + std::to_string(peer) + " has not arrived";
  }
  if (text.empty()) text = find_silent_mpi_peers(channels_);
  return text.empty() ? "all ranks are there, but the data of one does not come" : text;
}

void announce_leaving(MpiChannels& channels, const std::string& reason) noexcept {
  if (!native::has_mpi_ended()) say_to_all(channels, reason);
}

}  // namespace lockstep
