/* What becomes of the summed messages of an atom: see node.py. */

#define SILU (real)1.6765324703310907
#define TANH (real)1.5925374197228312

typedef struct {
    whole dim;      /* 2l + 1 */
    whole mul;      /* channels before the gate */
    whole messages; /* channels of the messages */
    whole inputs;   /* channels of the layer's input, 0 where it lacks the irrep */
    whole outputs;  /* channels after the gate */
    whole gate;     /* place of the gates among the even scalars, or EVEN or ODD */
    whole elements; /* whether each element has a matrix of its own for the input */
} term;

enum { EVEN = -1, ODD = -2 };

/* The matrix (k, n) for the input of an atom. */
static inline const real *of_element(const term *t, const real *matrices, whole element, whole k,
    whole n)
{
    return matrices + (t->elements ? element * size_of(k, n) : 0);
}

/* One over the root mean square of all terms of an atom. */
static real inverse_norm(whole i, whole n_terms, const term *terms, real *const *z, double epsilon)
{
    double sum = 0;
    for (whole k = 0; k < n_terms; k++) {
        whole size = terms[k].dim * terms[k].mul;
        const real *own = z[k] + i * size;
        real squares = 0;
        for (whole c = 0; c < size; c++) squares += own[c] * own[c];
        sum += (double)squares / size;
    }
    return 1 / sqrt(sum / n_terms + epsilon);
}

/* h = z times the norm's weights and root, for all terms of an atom; where each begins in h. */
static void normalised(whole i, whole n_terms, const term *terms, const real *const *weights,
    real *const *z, real root, real *h)
{
    for (whole k = 0; k < n_terms; k++) {
        whole mul = terms[k].mul, dim = terms[k].dim;
        const real *own = z[k] + i * dim * mul, *by = weights[4 * k + 2];
        for (whole m = 0; m < dim; m++, h += mul, own += mul)
            for (whole c = 0; c < mul; c++) h[c] = by ? own[c] * by[c] * root : own[c];
    }
}

/* The even scalars and gates after their nonlinearity. */
static void even_scalars(whole n_terms, const term *terms, const real *h, real *even)
{
    for (whole k = 0; k < n_terms; h += terms[k].dim * terms[k].mul, k++)
        if (terms[k].gate == EVEN)
            for (whole c = 0; c < terms[k].mul; c++) even[c] = SILU * h[c] / (1 + EXP(-h[c]));
}

void node_forward(whole n_atoms, whole n_threads, whole n_terms, whole n_channels,
    const term *terms, const whole *element, const real *const *weights, const real *const *m,
    const real *const *x, const real *const *kept, double factor, double epsilon, real *const *z,
    real *const *out, real *const *y)
{
#pragma omp parallel for num_threads(n_threads) schedule(static) if (n_threads > 1)
    for (whole first = 0; first < n_atoms; first += BLOCK) {
        whole end = first + BLOCK < n_atoms ? first + BLOCK : n_atoms, n = end - first;
        real h[n_channels], even[n_channels];
        for (whole k = 0; k < n_terms; k++) {
            const term *t = terms + k;
            product(n * t->dim, t->messages, m[k] + first * t->dim * t->messages, weights[4 * k],
                t->mul, z[k] + first * t->dim * t->mul);
            for (whole i = first; t->inputs && i < end; i++)
                product(t->dim, t->inputs, x[k] + i * t->dim * t->inputs,
                    of_element(t, weights[4 * k + 1], element[i], t->inputs, t->mul), t->mul,
                    z[k] + i * t->dim * t->mul);
        }
        for (whole i = first; i < end; i++) {
            real root = epsilon < 0 ? 1 : inverse_norm(i, n_terms, terms, z, epsilon);
            normalised(i, n_terms, terms, weights, z, root, h);
            even_scalars(n_terms, terms, h, even);
            const real *here = h;
            for (whole k = 0; k < n_terms; here += terms[k].dim * terms[k].mul, k++) {
                const term *t = terms + k;
                whole size = t->dim * t->outputs;
                real *own = out[k] + i * size;
                for (whole d = 0; d < t->dim; d++)
                    for (whole c = 0; c < t->outputs; c++) {
                        real value = here[d * t->mul + c];
                        if (t->gate == EVEN) value = even[c];
                        else if (t->gate == ODD) value = TANH * TANH_OF(value);
                        else value *= even[t->gate + c];
                        own[d * t->outputs + c] = (real)factor * value;
                    }
                for (whole c = 0; kept[k] && c < size; c++) own[c] += kept[k][i * size + c];
            }
        }
        for (whole k = 0; k < n_terms; k++)
            if (weights[4 * k + 3])
                product(n * terms[k].dim, terms[k].outputs,
                    out[k] + first * terms[k].dim * terms[k].outputs, weights[4 * k + 3],
                    terms[k].outputs, y[k] + first * terms[k].dim * terms[k].outputs);
    }
}

/* From by_own, which comes by the outcome of the gate, to by_h, which comes by what goes in. */
static void gate_backward(whole n_terms, const term *terms, double factor, const real *h,
    const real *even, real *by_even, const real *by_own, real *by_h)
{
    const real *here = h;
    real *by_here = by_h;
    for (whole k = 0; k < n_terms; k++) {
        const term *t = terms + k;
        for (whole d = 0; d < t->dim; d++)
            for (whole c = 0; c < t->outputs; c++) {
                real by = (real)factor * by_own[d * t->outputs + c];
                real value = here[d * t->mul + c];
                if (t->gate == EVEN) by_even[c] += by;
                else if (t->gate == ODD) {
                    real tangent = TANH_OF(value);
                    by_here[d * t->mul + c] = by * TANH * (1 - tangent * tangent);
                } else {
                    by_even[t->gate + c] += by * value;
                    by_here[d * t->mul + c] = by * even[t->gate + c];
                }
            }
        by_own += t->dim * t->mul;
        here += t->dim * t->mul;
        by_here += t->dim * t->mul;
    }
    here = h, by_here = by_h;
    for (whole k = 0; k < n_terms; k++) {
        if (terms[k].gate == EVEN)
            for (whole c = 0; c < terms[k].mul; c++) {
                real s = 1 / (1 + EXP(-here[c]));
                by_here[c] = by_even[c] * SILU * s * (1 + here[c] * (1 - s));
            }
        here += terms[k].dim * terms[k].mul;
        by_here += terms[k].dim * terms[k].mul;
    }
}

/* From by_h, which comes by what goes out of the norm, to what comes by what goes in, z. */
static void norm_backward(whole i, whole n_terms, const term *terms, const real *const *weights,
    real *const *z, real root, real *by_h)
{
    real along = 0, *by_here = by_h;
    for (whole k = 0; k < n_terms; k++) {
        const real *by = weights[4 * k + 2], *own = z[k] + i * terms[k].dim * terms[k].mul;
        for (whole d = 0; d < terms[k].dim; d++)
            for (whole c = 0; c < terms[k].mul; c++) {
                *by_here *= by[c];
                along += *by_here++ * *own++;
            }
    }
    by_here = by_h;
    for (whole k = 0; k < n_terms; k++) {
        whole size = terms[k].dim * terms[k].mul;
        const real *own = z[k] + i * size;
        real back = root * root * root * along / (n_terms * size);
        for (whole c = 0; c < size; c++) by_here[c] = root * by_here[c] - back * own[c];
        by_here += size;
    }
}

/* The weights are the transposed ones. What comes by x and kept is added to. */
void node_backward(whole n_atoms, whole n_threads, whole n_terms, whole n_channels,
    const term *terms, const whole *element, const real *const *weights, double factor,
    double epsilon, real *const *z, const real *const *by_out, const real *const *by_y,
    real *const *by_m, real *const *by_x, real *const *by_kept)
{
#pragma omp parallel for num_threads(n_threads) schedule(static) if (n_threads > 1)
    for (whole first = 0; first < n_atoms; first += BLOCK) {
        whole end = first + BLOCK < n_atoms ? first + BLOCK : n_atoms, n = end - first;
        real h[n_channels], even[n_channels], by_even[n_channels], own[n_channels];
        real by_h[n_channels], by_own[BLOCK * n_channels], by_z[BLOCK * n_channels];
        real *here = by_own;
        for (whole k = 0; k < n_terms; here += n * terms[k].dim * terms[k].mul, k++) {
            const term *t = terms + k;
            whole size = t->dim * t->outputs;
            memcpy(here, by_out[k] + first * size, n * size * sizeof(real));
            if (weights[4 * k + 3])
                product(n * t->dim, t->outputs, by_y[k] + first * size, weights[4 * k + 3],
                    t->outputs, here);
            for (whole c = 0; by_kept[k] && c < n * size; c++)
                by_kept[k][first * size + c] += here[c];
        }
        for (whole i = first; i < end; i++) {
            real root = epsilon < 0 ? 1 : inverse_norm(i, n_terms, terms, z, epsilon);
            normalised(i, n_terms, terms, weights, z, root, h);
            even_scalars(n_terms, terms, h, even);
            memset(by_even, 0, sizeof(by_even));
            whole begin = 0;
            for (whole k = 0; k < n_terms; begin += terms[k].dim * terms[k].mul, k++) {
                whole size = terms[k].dim * terms[k].outputs;
                memcpy(own + begin, by_own + n * begin + (i - first) * size, size * sizeof(real));
            }
            gate_backward(n_terms, terms, factor, h, even, by_even, own, by_h);
            if (epsilon >= 0) norm_backward(i, n_terms, terms, weights, z, root, by_h);
            begin = 0;
            for (whole k = 0; k < n_terms; begin += terms[k].dim * terms[k].mul, k++) {
                whole size = terms[k].dim * terms[k].mul;
                memcpy(by_z + n * begin + (i - first) * size, by_h + begin, size * sizeof(real));
            }
        }
        here = by_z;
        for (whole k = 0; k < n_terms; here += n * terms[k].dim * terms[k].mul, k++) {
            const term *t = terms + k;
            product(n * t->dim, t->mul, here, weights[4 * k], t->messages,
                by_m[k] + first * t->dim * t->messages);
            for (whole i = first; t->inputs && i < end; i++)
                product(t->dim, t->mul, here + (i - first) * t->dim * t->mul,
                    of_element(t, weights[4 * k + 1], element[i], t->mul, t->inputs), t->inputs,
                    by_x[k] + i * t->dim * t->inputs);
        }
    }
}
