// SPDX-License-Identifier: BSD-3-Clause
#include "comm/mpi/channels.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <string_view>

#include "comm/collective/message.h"
#include "comm/collective/operation.h"
#include "comm/exchange/backoff.h"
#include "concurrency/deadline.h"

namespace lockstep {
namespace {

using native::check_mpi;

// Under it a rank says why it gave up, on a communicator that carries no messages.
constexpr int kLeavingTag = kOwnTag;
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
  Backoff backoff;
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

void announce_leaving(MpiChannels& channels, const std::string& reason) noexcept {
  if (!native::has_mpi_ended()) say_to_all(channels, reason);
}

}  // namespace lockstep
