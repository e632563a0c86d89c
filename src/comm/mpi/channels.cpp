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

// The tag of control messages, on a communicator that carries no messages of the program.
constexpr int kControlTag = kOwnTag;
// How long an abort notice waits for what it may have overtaken: far longer than a message takes
// between two hosts, far shorter than any deadline.
constexpr std::chrono::milliseconds kOvertaking{200};

// How long a rank that waits in this group may take to answer. This delays nothing: the rank that
// asks has waited until its deadline.
constexpr std::chrono::milliseconds kAnswerTime{500};

// A control message: the reason of a rank that aborts, or one of these.
using ControlMessage = std::array<char, 256>;
constexpr char kQuestion = 1;
constexpr char kAnswer = 2;

/// Does not wait; never throws.
void send_control(MpiChannels& channels, std::string_view what, int peer) noexcept {
  // Never freed: no call waits for these messages to go out, and there are few.
  auto* text = new (std::nothrow) ControlMessage{};
  if (text == nullptr) return;
  std::memcpy(text->data(), what.data(), std::min(what.size(), text->size() - 1));
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Isend(text->data(), static_cast<int>(text->size()), MPI_CHAR, peer, kControlTag,
            channels.fingerprints.get(), &request);
}

void send_control_to_all(MpiChannels& channels, std::string_view what) noexcept {
  for (int peer = 0; peer < channels.fingerprints.size(); ++peer) {
    if (peer != channels.fingerprints.rank()) send_control(channels, what, peer);
  }
}

/// Receives control messages: keeps the first abort notice, and answers questions.
void receive_control(MpiChannels& channels) {
  native::check_mpi_runs();
  while (!channels.abort_notice) {
    int has_come = 0;
    MPI_Status status;
    check_mpi(
        MPI_Iprobe(MPI_ANY_SOURCE, kControlTag, channels.fingerprints.get(), &has_come, &status),
        "MPI_Iprobe");
    if (has_come == 0) return;
    ControlMessage message{};
    check_mpi(
        MPI_Recv(message.data(), static_cast<int>(message.size()), MPI_CHAR, status.MPI_SOURCE,
                 kControlTag, channels.fingerprints.get(), MPI_STATUS_IGNORE),
        "MPI_Recv");
    message.back() = '\0';
    if (message.front() == kQuestion) {
      send_control(channels, {&kAnswer, 1}, status.MPI_SOURCE);
    } else if (message.front() == kAnswer) {
      channels.answers.insert(status.MPI_SOURCE);
    } else {
      channels.abort_notice = {
          "rank " + std::to_string(status.MPI_SOURCE) + " gave up: " + message.data(),
          std::chrono::steady_clock::now()};
    }
  }
}

}  // namespace

void check_mpi_peers(MpiChannels& channels) {
  receive_control(channels);
  if (!channels.abort_notice ||
      std::chrono::steady_clock::now() - channels.abort_notice->since < kOvertaking) {
    return;
  }
  throw OperationFailure{OperationFailure::Kind::PeerLost, channels.abort_notice->text,
                         "look at what that rank reported first"};
}

std::string find_silent_mpi_peers(MpiChannels& channels) {
  channels.answers = {channels.fingerprints.rank()};
  send_control_to_all(channels, {&kQuestion, 1});
  const auto all = static_cast<std::size_t>(channels.fingerprints.size());
  const Deadline deadline = Deadline::after(kAnswerTime);
  Backoff backoff;
  while (receive_control(channels), !channels.abort_notice && channels.answers.size() < all) {
    if (deadline.has_passed()) break;
    backoff.sleep(deadline.remaining());
  }
  if (channels.abort_notice) return channels.abort_notice->text;
  std::string text;
  for (int peer = 0; peer < channels.fingerprints.size(); ++peer) {
    if (channels.answers.contains(peer)) continue;
    text += (text.empty() ? "rank " : ", rank ") + std::to_string(peer) +
            " has arrived, but does not answer: it is gone, or in no call of this group";
  }
  return text;
}

void announce_mpi_abort(MpiChannels& channels, const std::string& reason) noexcept {
  if (!native::has_mpi_ended()) send_control_to_all(channels, reason);
}

}  // namespace lockstep
