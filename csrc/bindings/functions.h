// What module.cpp offers to Python. Arguments are positional; alignzoo/kernels gives them names.
#pragma once

#include <pybind11/pybind11.h>

namespace alignzoo::bindings {

namespace py = pybind11;

// An array of the same library, dtype and shape, contiguous, its elements not set.
py::object empty_like(py::object array);

py::object gae(py::object rewards, py::object values, py::object gamma, py::object gae_lambda,
               py::object mask, py::object terminated, py::object truncated, py::object bootstrap,
               py::object next_values, py::object cu_seqlens, py::object mask_mode);
py::object discounted_returns(py::object rewards, py::object gamma, py::object mask,
                              py::object terminated, py::object truncated, py::object bootstrap,
                              py::object cu_seqlens, py::object mask_mode);
py::object td_lambda_returns(py::object rewards, py::object values, py::object gamma,
                             py::object td_lambda, py::object mask, py::object terminated,
                             py::object truncated, py::object bootstrap, py::object next_values,
                             py::object cu_seqlens, py::object mask_mode);
py::object vtrace(py::object log_probs, py::object old_log_probs, py::object rewards,
                  py::object values, py::object gamma, py::object vtrace_lambda,
                  py::object clip_rho, py::object clip_c, py::object clip_pg_rho, py::object mask,
                  py::object terminated, py::object truncated, py::object bootstrap,
                  py::object next_values, py::object cu_seqlens, py::object mask_mode);
py::object td_targets(py::object rewards, py::object next_values, py::object gamma,
                      py::object terminated, py::object n_step);
py::object masked_whiten(py::object x, py::object mask, py::object shift_mean, py::object ddof,
                         py::object eps, py::object moments, py::object cu_seqlens);
py::object group_advantages(py::object scores, py::object group_ids, py::object mode,
                            py::object eps, py::object ddof);

// (log_probs, entropy or None, saved [..., 3] or None)
py::object token_log_probs(py::object function, py::object logits, py::object targets,
                           py::object temperature, py::object entropy, py::object ignore_index,
                           py::object save);
// Raises for targets and options that linear_token_log_probs cannot take.
void check_linear(py::object function, py::object hidden, py::object weight, py::object targets,
                  py::object ignore_index, py::object temperature, py::object entropy);
// The gradient, written into `gradient`, which may be `logits` itself, or where that is None, into
// a new array.
py::object token_log_probs_backward(py::object logits, py::object targets, py::object temperature,
                                    py::object ignore_index, py::object saved,
                                    py::object up_log_probs, py::object up_entropy,
                                    py::object gradient);
py::object sample_tokens(py::object logits, py::object temperature, py::object top_k,
                         py::object top_p, py::object seed, py::object offset, py::object row_ids);

// (divergences, saved [..., 5] or None)
py::object kl_divergence(py::object logits_p, py::object logits_q, py::object direction,
                         py::object temperature, py::object save);
// (gradient of logits_p or None, gradient of logits_q or None)
py::object kl_divergence_backward(py::object logits_p, py::object logits_q, py::object direction,
                                  py::object temperature, py::object saved, py::object upstream,
                                  py::object needs_p, py::object needs_q);
// (max, argmax, chosen)
py::object max_and_gather(py::object q, py::object actions);

// (loss, gradient or None, stats)
py::object policy_loss(py::object log_probs, py::object old_log_probs, py::object advantages,
                       py::object mask, py::object clip_range, py::object clip_range_high,
                       py::object dual_clip, py::object level, py::object aggregate,
                       py::object denominator, py::object behaviour_weights, py::object kind,
                       py::object cu_seqlens, py::object want_gradient);
py::object value_loss(py::object values, py::object old_values, py::object returns, py::object mask,
                      py::object clip_range, py::object denominator, py::object cu_seqlens,
                      py::object want_gradient);
// (value, gradient or None)
py::object kl_penalty(py::object log_probs, py::object ref_log_probs, py::object estimator,
                      py::object want_gradient);
py::object huber(py::object x, py::object delta, py::object want_gradient);

}  // namespace alignzoo::bindings
